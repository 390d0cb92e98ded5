"""DeepStream's secondary inference for a model: a Gst-nvinferserver configuration.

nvinferserver crops the detector's people, scales the crops and sends them to Triton
over gRPC. The network normalises its input, so pixels are sent unchanged (scale 1).
Outputs come back as tensor metadata, because a probability or an embedding is not a
list of classes.

Source: NVIDIA's DeepStream documentation, Gst-nvinferserver, "Configuration File". Not
run here: there was no DeepStream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from builders.spec.model import Network
from builders.tensors import Image, Interpolation, SpecError

SCALING_FILTERS: Mapping[Interpolation, int] = {
    "linear": 1,
    "cubic": 2,
    "linear_antialias": 3,
    "cubic_antialias": 3,
}
"""Values of NvBufSurfTransform_Inter on a GPU, by interpolation. 3 is super-sampling,
the filter that averages where an image shrinks; none is equal to Pillow's."""

SMALLEST_PERSON_WH = (16, 32)


@dataclass(frozen=True)
class PipelineElement:
    """Position of the inference element in a DeepStream pipeline.

    Attributes:
        unique_id: Id of this element.
        detector_id: Id of the detector whose people it classifies.
        server: gRPC address of the Triton server.
    """

    unique_id: int = 2
    detector_id: int = 1
    server: str = "127.0.0.1:8001"


def render_deepstream_config(model: Network, element: PipelineElement) -> str:
    """Return nvinferserver's configuration for a model.

    Args:
        model: A model that takes one crop.
        element: Its position in the pipeline.

    Raises:
        SpecError: The model does not take exactly one crop.
    """
    is_one_crop = len(model.images) == len(model.inputs) == 1
    if not is_one_crop or model.images[0].shorter_edge is not None:
        takes = ", ".join(f"{t.name} {t.data_type} {[*t.shape]}" for t in model.inputs)
        raise SpecError(
            f"{model.name} does not take one crop of a person (UINT8 [height, width, "
            f"3]), which is what DeepStream sends; it takes {takes}"
        )
    (image,) = model.images
    outputs = "\n".join(f'    outputs {{ name: "{o.name}" }}' for o in model.outputs)
    return f"""\
# Rendered by `python -m builders deepstream {model.name}`.
infer_config {{
  unique_id: {element.unique_id}
  gpu_ids: [0]
  max_batch_size: {model.batching.max_batch_size}
  backend {{
{outputs}
    triton {{
      model_name: "{model.name}"
      version: -1
      grpc {{
        url: "{element.server}"
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
  operate_on_gie_id: {element.detector_id}
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
