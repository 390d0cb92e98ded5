"""A model as DeepStream's secondary inference: Gst-nvinferserver's configuration.

nvinferserver cuts the detector's people out, scales them and sends them to Triton over
gRPC. Normalisation is in the network, so pixels stay as they are (scale 1), and outputs
come back as tensor metadata, because a sigmoid or an embedding is no class list.

Source: NVIDIA's DeepStream documentation, Gst-nvinferserver, "Configuration File". Not
run here: there was no DeepStream.
"""

from __future__ import annotations

from dataclasses import dataclass

from builders.spec import Image, Model, SpecError

SCALING_FILTERS = {"linear": 1, "cubic": 2}
"""NvBufSurfTransform_Inter, on a GPU."""

SMALLEST_PERSON_WH = (16, 32)


@dataclass(frozen=True)
class Place:
    """Where in the pipeline: this element's `unique_id`, the `detector_id` whose people
    it gets, and the server's gRPC address.
    """

    unique_id: int = 2
    detector_id: int = 1
    server: str = "127.0.0.1:8001"


def deepstream_config(model: Model, place: Place) -> str:
    """nvinferserver's configuration of `model`. Raises SpecError for one that does not
    take one picture.
    """
    if len(model.images) != 1 or model.images[0].shorter_edge is not None:
        raise SpecError(
            f"{model.name} does not take one crop of a person, which is what "
            "DeepStream's secondary inference sends"
        )
    (image,) = model.images
    outputs = "\n".join(f'    outputs {{ name: "{o.name}" }}' for o in model.outputs)
    return f"""\
# Rendered by `python -m builders deepstream {model.name}`.
infer_config {{
  unique_id: {place.unique_id}
  gpu_ids: [0]
  max_batch_size: {model.batching.maximum}
  backend {{
{outputs}
    triton {{
      model_name: "{model.name}"
      version: -1
      grpc {{
        url: "{place.server}"
        enable_cuda_buffer_sharing: false  # true if the server runs on the same GPU
      }}
    }}
  }}
  preprocess {{
{_preprocess(image)}
  }}
  postprocess {{
    other {{}}
  }}
}}
input_control {{
  process_mode: PROCESS_MODE_CLIP_OBJECTS
  operate_on_gie_id: {place.detector_id}
  interval: 0
  object_control {{
    bbox_filter {{
      min_width: {SMALLEST_PERSON_WH[0]}
      min_height: {SMALLEST_PERSON_WH[1]}
    }}
  }}
}}
output_control {{
  output_tensor_meta: true
}}
"""


def _preprocess(image: Image) -> str:
    return f"""\
    network_format: IMAGE_FORMAT_RGB
    tensor_order: TENSOR_ORDER_NHWC
    tensor_name: "{image.name}"
    maintain_aspect_ratio: 0
    frame_scaling_hw: FRAME_SCALING_HW_GPU
    frame_scaling_filter: {SCALING_FILTERS[image.interpolation]}
    normalize {{
      scale_factor: 1.0
    }}"""
