"""Writes the weights that tests read: files of every format, and tiny models of transformers and timm.

    pip install torch transformers timm safetensors numpy
    python scripts/make_weight_fixtures.py

Files go to mim-core/tests/fixtures/weights. Models have random weights; `values.safetensors` beside them holds an
input and what the library computes from it in f32 on the CPU.
"""

import argparse
import collections
import json
import pathlib
import pickle
import shutil

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

OUT = pathlib.Path(__file__).parent.parent / "mim-core/tests/fixtures/weights"


def numbers(*shape, dtype=torch.float32):
    """0, 1, 2, ... in a shape."""
    count = int(np.prod(shape))
    return torch.arange(count, dtype=torch.float64).reshape(shape).to(dtype)


def every_kind():
    """Tensors of every type and layout, all 0, 1, 2, ... but where the name says otherwise."""
    weights = collections.OrderedDict()
    for dtype in ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"]:
        weights[f"type.{dtype}"] = numbers(2, 3, dtype=getattr(torch, dtype))
    weights["type.bool"] = torch.tensor([True, False, True])
    weights["parameter"] = nn.Parameter(numbers(2, 3))
    weights["transposed"] = numbers(3, 2).t()
    weights["strided"] = numbers(4, 5)[:, 1:3]
    shared = numbers(6)
    weights["shared.whole"], weights["shared.tail"] = shared, shared[4:]
    weights["scalar"] = torch.tensor(7.0)
    weights["empty"] = torch.zeros(0, 3)
    weights["metadata"] = "text"
    weights["count"] = 3
    weights._metadata = {"": {"version": 1}}
    return weights


class Module(nn.Linear):
    """A class that a reader of the file does not have."""


def formats():
    folder = OUT / "formats"
    folder.mkdir(parents=True, exist_ok=True)
    small = {"a": numbers(2, 3), "b": numbers(4)}

    def save(name, value, **more):
        torch.save(value, folder / name, **more)

    save("plain.pth", every_kind())
    options = argparse.Namespace(output=pathlib.Path("runs"), epochs=3)
    optimizer = {"state": {0: {"exp_avg": numbers(2)}}, "param_groups": [{"lr": np.float64(0.1)}]}
    save("model.pth", {"epoch": 3, "model": small, "optimizer": optimizer, "args": options})
    save("two_levels.pth.tar", {"state_dict": {"model": small}, "model_ema": {"state_dict": {"a": numbers(1)}}})
    save("student_teacher.pth", {"student": {"a": numbers(2)}, "teacher": small, "center": numbers(1, 2)})
    save("other_key.pth", {"weights": {"net": small}, "epoch": 1})
    save("protocol4.bin", {"model": small}, pickle_protocol=4)
    save("huge_int.pth", {"model": small, "seed": 2**70})
    save("legacy.pth", small, _use_new_zipfile_serialization=False)
    save("module.pth", Module(2, 2))
    save("list.pth", [numbers(2)])
    save("no_tensors.pth", {"epoch": 3, "names": ["a"]})
    sparse = torch.sparse_coo_tensor([[0, 1], [1, 0]], [1.0, 2.0], (2, 2))
    save("sparse.pth", {"a": numbers(2, 3), "odd": sparse})
    torch.jit.script(nn.Linear(2, 2)).save(str(folder / "script.pt"))
    with open(folder / "bare.pkl", "wb") as file:
        pickle.dump({"a": [1, 2]}, file, protocol=2)

    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "f": np.asfortranarray(np.arange(6.0).reshape(2, 3))}
    arrays |= {"h": np.arange(3, dtype=np.float16), "flag": np.array([True, False]), "i": np.arange(3, dtype=np.int16)}
    np.savez(folder / "arrays.npz", **arrays, scalar=np.float32(7), text=np.array(["x"]))
    np.savez_compressed(folder / "compressed.npz", **arrays)

    shards = folder / "sharded"
    shards.mkdir(exist_ok=True)
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    for name, file in names.items():
        save_file({name: small[name]}, shards / file)
    (shards / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    types = {"bool": torch.tensor([True, False]), "i8": torch.tensor([-1, 2], dtype=torch.int8)}
    types |= {"i16": torch.tensor([-3], dtype=torch.int16), "f": numbers(2).to(torch.bfloat16)}
    save_file(types, folder / "types.safetensors")


def randomise(model):
    """Weights that make every part matter, also those that start at zero or one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in sorted(model.named_parameters()):
            noise = torch.randn(value.shape, generator=generator)
            scale = 0.2 if value.dim() > 1 else 0.1
            start = 1.0 if name.endswith("weight") and value.dim() == 1 else 0.0
            value.copy_(start + scale * noise)
    return model.eval()


def image(size, channels=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, channels, size, size, generator=generator)


def keep(name, model, values, save=None):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if save is None:
        model.save_pretrained(folder)
    else:
        save(folder)
    for extra in folder.glob("generation_config.json"):
        extra.unlink()
    save_file({key: value.detach().contiguous() for key, value in values.items()}, folder / "values.safetensors")


def of_transformers():
    import transformers as tf

    size = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=4)
    x = image(16)

    decoder = dict(decoder_hidden_size=8, decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=16)
    mae = tf.ViTMAEForPreTraining(tf.ViTMAEConfig(**size, **decoder, mask_ratio=0.0))
    randomise(mae)  # the position tables too: a fresh model of transformers 5 has zeros there
    in_order = torch.arange(16).float().expand(2, 16)
    latent = mae.vit(x, noise=in_order).last_hidden_state
    mae.config.mask_ratio = 0.5
    out = mae(x, noise=torch.rand(2, 16, generator=torch.Generator().manual_seed(2)))
    keep("hf_vit_mae", mae, {"image": x, "latent": latent, "pred": out.logits, "mask": out.mask.to(torch.uint8)})

    beit = dict(size, use_mask_token=True, layer_scale_init_value=0.1, use_auxiliary_head=False, vocab_size=11)
    shared = tf.BeitForMaskedImageModeling(tf.BeitConfig(**beit, use_shared_relative_position_bias=True))
    randomise(shared)
    hidden = torch.arange(32).reshape(2, 16) % 3 == 0
    keep("hf_beit", shared, {
        "image": x,
        "latent": shared.layernorm(shared.beit(x).last_hidden_state),
        "logits": shared(x, bool_masked_pos=hidden).logits,
        "mask": hidden.to(torch.uint8),
    })
    own = tf.Data2VecVisionModel(
        tf.Data2VecVisionConfig(**beit, use_relative_position_bias=True, use_mean_pooling=False), add_pooling_layer=False)
    randomise(own)
    keep("hf_data2vec", own, {"image": x, "latent": own(x).last_hidden_state})

    clip = tf.CLIPVisionModelWithProjection(tf.CLIPVisionConfig(**size, projection_dim=12))
    randomise(clip)
    out = clip(x)
    keep("hf_clip", clip, {"image": x, "class": out.image_embeds})

    dino = tf.Dinov2Model(tf.Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=16, patch_size=4))
    randomise(dino)
    keep("hf_dinov2", dino, {"image": x, "latent": dino(x).last_hidden_state})

    vit = tf.ViTModel(tf.ViTConfig(**size))
    randomise(vit)
    keep("hf_vit", vit, {"image": x, "latent": vit(x).last_hidden_state})

    swin = tf.SwinForMaskedImageModeling(tf.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 2], num_heads=[1, 2], window_size=4, mlp_ratio=2.0, encoder_stride=8))
    randomise(swin)
    large = image(32)
    hidden = torch.arange(128).reshape(2, 64) % 3 == 0
    keep("hf_swin", swin, {
        "image": large,
        "latent": swin.swin(large).last_hidden_state,
        "pred": swin(large, bool_masked_pos=hidden).reconstruction,
        "mask": hidden.to(torch.uint8),
    })

    codebook = tf.FlavaImageCodebook(tf.FlavaImageCodebookConfig(num_groups=4, num_blocks_per_group=1, hidden_size=4, vocab_size=11))
    randomise(codebook)
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    keep("flava_codebook", codebook, {"image": pixels, "logits": codebook(0.8 * pixels + 0.1).permute(0, 2, 3, 1)})


def of_timm():
    from timm.models.beit import Beit
    from timm.models.eva import Eva
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.vision_transformer import VisionTransformer

    def save(model):
        return lambda folder: save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")

    vit = VisionTransformer(img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2, num_classes=3)
    randomise(vit)
    x = image(16)
    keep("timm_vit", vit, {"image": x, "latent": vit.forward_features(x)}, save(vit))
    size = dict(img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2, num_classes=3, global_pool="token")
    beit = Beit(**size, init_values=0.1, use_abs_pos_emb=False, use_shared_rel_pos_bias=True)
    randomise(beit)
    keep("timm_beit", beit, {"image": x, "latent": beit.forward_features(x)}, save(beit))
    eva = Eva(**size, use_rot_pos_emb=False)
    randomise(eva)
    keep("timm_eva", eva, {"image": x, "latent": eva.forward_features(x)}, save(eva))
    swin = SwinTransformer(img_size=32, patch_size=4, embed_dim=8, depths=(1, 2), num_heads=(1, 2), window_size=4, mlp_ratio=2.0, num_classes=3)
    randomise(swin)
    x = image(32)
    keep("timm_swin", swin, {"image": x, "latent": swin.forward_features(x).flatten(1, 2)}, save(swin))


if __name__ == "__main__":
    torch.manual_seed(0)
    formats()
    of_transformers()
    of_timm()
