"""Images: accepted formats and limits, caller inputs, and cropping."""
