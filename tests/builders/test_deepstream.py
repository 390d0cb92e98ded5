"""DeepStream's configuration, read by protobuf's own parser."""

from __future__ import annotations

import pytest
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
)

from builders.repository.deepstream import PipelineElement, render_deepstream_config
from builders.spec.catalogue import models
from builders.tensors import SpecError

TEXT = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
WHOLE = descriptor_pb2.FieldDescriptorProto.TYPE_INT64
REAL = descriptor_pb2.FieldDescriptorProto.TYPE_FLOAT
TRUTH = descriptor_pb2.FieldDescriptorProto.TYPE_BOOL

SHAPE = {
    "infer_config": {
        "unique_id": WHOLE,
        "gpu_ids": [WHOLE],
        "max_batch_size": WHOLE,
        "backend": {
            "outputs": [{"name": TEXT}],
            "triton": {
                "model_name": TEXT,
                "version": WHOLE,
                "grpc": {"url": TEXT, "enable_cuda_buffer_sharing": TRUTH},
            },
        },
        "preprocess": {
            "network_format": ("IMAGE_FORMAT_RGB", "IMAGE_FORMAT_BGR"),
            "tensor_order": ("TENSOR_ORDER_LINEAR", "TENSOR_ORDER_NHWC"),
            "tensor_name": TEXT,
            "maintain_aspect_ratio": WHOLE,
            "frame_scaling_hw": ("FRAME_SCALING_HW_DEFAULT", "FRAME_SCALING_HW_GPU"),
            "frame_scaling_filter": WHOLE,
            "normalize": {"scale_factor": REAL},
        },
        "postprocess": {"other": {}},
    },
    "input_control": {
        "process_mode": ("PROCESS_MODE_FULL_FRAME", "PROCESS_MODE_CLIP_OBJECTS"),
        "operate_on_gie_id": WHOLE,
        "interval": WHOLE,
        "object_control": {"bbox_filter": {"min_width": WHOLE, "min_height": WHOLE}},
    },
    "output_control": {"output_tensor_meta": TRUTH},
}
"""The messages and fields that NVIDIA documents, as far as we use them."""


def _message(name: str, shape: dict, file: descriptor_pb2.FileDescriptorProto) -> None:
    message = file.message_type.add(name=name)
    for number, (key, given) in enumerate(shape.items(), start=1):
        (kind,) = given if isinstance(given, list) else (given,)
        label = 3 if isinstance(given, list) else 1
        field = message.field.add(name=key, number=number, label=label)
        if isinstance(kind, dict):
            _message(f"{name}_{key}", kind, file)
            field.type = field.TYPE_MESSAGE
            field.type_name = f"{name}_{key}"
        elif isinstance(kind, tuple):
            enum = file.enum_type.add(name=f"{name}_{key}")
            for index, value in enumerate(kind):
                enum.value.add(name=value, number=index)
            field.type, field.type_name = field.TYPE_ENUM, f"{name}_{key}"
        else:
            field.type = kind


@pytest.fixture(scope="module")
def control() -> type:
    file = descriptor_pb2.FileDescriptorProto(name="nvdsinferserver.proto")
    _message("Control", SHAPE, file)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Control"))


@pytest.mark.parametrize("name", ["person_gender", "person_reid_kd_r18"])
def test_it_says_what_the_declaration_says(control: type, name: str) -> None:
    (model,) = models([name])
    text = render_deepstream_config(model, PipelineElement(7, 3, "triton:8001"))
    found = text_format.Parse(text, control())
    infer = found.infer_config
    assert (infer.unique_id, list(infer.gpu_ids)) == (7, [0])
    assert infer.max_batch_size == model.batching.max_batch_size
    assert [o.name for o in infer.backend.outputs] == [o.name for o in model.outputs]
    assert infer.backend.triton.model_name == name
    assert infer.backend.triton.grpc.url == "triton:8001"
    assert infer.preprocess.tensor_name == model.images[0].name
    assert infer.preprocess.normalize.scale_factor == 1
    assert infer.postprocess.HasField("other")
    assert found.input_control.operate_on_gie_id == 3
    assert found.output_control.output_tensor_meta
    assert f"frame_scaling_filter: {1 if name == 'person_gender' else 2}" in text


@pytest.mark.parametrize("name", ["kinship_compact", "se_resnet50"])
def test_models_of_other_pictures_are_refused(name: str) -> None:
    (model,) = models([name])
    with pytest.raises(SpecError, match="does not take one crop of a person"):
        render_deepstream_config(model, PipelineElement())
