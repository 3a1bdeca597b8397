"""Pre-training steps of MIM methods in PyTorch: the peers that `race.py` times beside `mim bench step`.

Each function gives a module whose call returns the loss of one step on random images with new masks, and what follows the
optimizer's step (the move of a momentum teacher), if anything does. Networks come from transformers, timm and lightly, with
random weights; only what these lack is written here.

- `mae`: `ViTMAEForPreTraining`.
- `simmim`: `SwinForMaskedImageModeling`, or `ViTForMaskedImageModeling`, which has no relative biases: slightly less work.
- `beit`: `BeitForMaskedImageModeling`; tokens are drawn, so no tokenizer is part of the step.
- `data2vec`: `Data2VecVisionModel` twice; the teacher sees the whole image, and the mean of its last 6 blocks is predicted.
- `ibot`: timm's ViT with lightly's heads and losses; 2 global and 10 local crops, half of the global ones masked.
- `bootmae`: work of BootMAE's shape. A ViT on a quarter of the patches, a momentum teacher on all of them, and two decoders of
  two blocks with cross-attention.
"""

import copy
import functools

import lightly.loss
import lightly.models.modules as modules
import timm
import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    BeitConfig,
    BeitForMaskedImageModeling,
    Data2VecVisionConfig,
    Data2VecVisionModel,
    SwinConfig,
    SwinForMaskedImageModeling,
    ViTConfig,
    ViTForMaskedImageModeling,
    ViTMAEConfig,
    ViTMAEForPreTraining,
)

VITS = {"vit_tiny": (192, 12, 3), "vit_small": (384, 12, 6), "vit_base": (768, 12, 12), "vit_large": (1024, 24, 16)}
SWINS = {"swin_tiny": (96, [2, 2, 6, 2], [3, 6, 12, 24]), "swin_base": (128, [2, 2, 18, 2], [4, 8, 16, 32])}
PATCHES = 14 * 14


def vit_sizes(arch):
    dim, depth, heads = VITS[arch]
    return {
        "hidden_size": dim,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": 4 * dim,
        "image_size": 224,
        "patch_size": 16,
    }


def random_mask(batch, cells, hidden, device):
    """Ones at `hidden` random cells of each image, `[batch, cells]`."""
    order = torch.rand(batch, cells, device=device).argsort(1)
    return torch.zeros(batch, cells, dtype=torch.bool, device=device).scatter(1, order[:, :hidden], True)


def images(batch, size, device):
    return torch.randn(batch, 3, size, size, device=device)


@torch.no_grad()
def move(teacher, student, momentum=0.996):
    torch._foreach_lerp_(list(teacher.parameters()), [p.detach() for p in student.parameters()], 1 - momentum)


def frozen_copy(network):
    return copy.deepcopy(network).requires_grad_(False)


class Mae(nn.Module):
    def __init__(self, arch, batch, device):
        super().__init__()
        decoder = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 16, "intermediate_size": 2048}
        decoder = {f"decoder_{key}": value for key, value in decoder.items()}
        config = ViTMAEConfig(**vit_sizes(arch), **decoder, mask_ratio=0.75, norm_pix_loss=True, layer_norm_eps=1e-6)
        self.network = ViTMAEForPreTraining(config)
        self.images = images(batch, 224, device)

    def forward(self):
        return self.network(self.images).loss


class SimMim(nn.Module):
    def __init__(self, arch, batch, device):
        super().__init__()
        if arch in SWINS:
            dim, depths, heads = SWINS[arch]
            config = SwinConfig(
                image_size=192,
                patch_size=4,
                embed_dim=dim,
                depths=depths,
                num_heads=heads,
                window_size=6,
                encoder_stride=32,
                drop_path_rate=0.0,
            )
            self.network, self.size, self.patch = SwinForMaskedImageModeling(config), 192, 4
        else:
            self.network = ViTForMaskedImageModeling(ViTConfig(encoder_stride=16, **vit_sizes(arch)))
            self.size, self.patch = 224, 16
        self.images = images(batch, self.size, device)

    def forward(self):
        batch, side, times = len(self.images), self.size // 32, 32 // self.patch
        bits = random_mask(batch, side * side, round(0.6 * side * side), self.images.device)
        bits = bits.view(batch, side, 1, side, 1).expand(-1, -1, times, -1, times)
        return self.network(self.images, bool_masked_pos=bits.reshape(batch, -1)).loss


class Beit(nn.Module):
    def __init__(self, arch, batch, device):
        super().__init__()
        config = BeitConfig(
            **vit_sizes(arch),
            vocab_size=8192,
            use_mask_token=True,
            use_relative_position_bias=True,
            drop_path_rate=0.1,
            layer_scale_init_value=0.1,
        )
        self.network, self.images = BeitForMaskedImageModeling(config), images(batch, 224, device)

    def forward(self):
        bits = random_mask(len(self.images), PATCHES, 75, self.images.device)
        logits = self.network(self.images, bool_masked_pos=bits).logits[bits]
        return F.cross_entropy(logits.float(), torch.randint(8192, (len(logits),), device=logits.device))


class Data2Vec(nn.Module):
    def __init__(self, arch, batch, device):
        super().__init__()
        config = Data2VecVisionConfig(
            **vit_sizes(arch),
            use_mask_token=True,
            use_shared_relative_position_bias=True,
            drop_path_rate=0.25,
            layer_scale_init_value=1e-4,
        )
        self.network = Data2VecVisionModel(config, add_pooling_layer=False)
        self.teacher = frozen_copy(self.network)
        self.head = nn.Linear(config.hidden_size, config.hidden_size)
        self.images = images(batch, 224, device)

    def forward(self):
        bits = random_mask(len(self.images), PATCHES, 120, self.images.device)
        with torch.no_grad():
            layers = self.teacher(self.images, output_hidden_states=True).hidden_states[-6:]
            layers = [F.layer_norm(layer.float(), layer.shape[-1:]) for layer in layers]
            target = torch.stack(layers).mean(0)[:, 1:][bits]
        found = self.network(self.images, bool_masked_pos=bits).last_hidden_state[:, 1:][bits]
        return F.smooth_l1_loss(self.head(found).float(), target, beta=2.0)

    def after_step(self):
        move(self.teacher, self.network)


class MaskedVit(nn.Module):
    """timm's ViT with a mask token; gives the class token and the patches."""

    def __init__(self, arch):
        super().__init__()
        self.vit = timm.create_model(f"{arch}_patch16_224", num_classes=0, dynamic_img_size=True, drop_path_rate=0.1)
        self.mask_token = nn.Parameter(torch.zeros(self.vit.embed_dim))

    def forward(self, views, bits=None):
        tokens = self.vit.patch_embed(views)
        if bits is not None:
            tokens = torch.where(bits.view(*tokens.shape[:3], 1), self.mask_token.to(tokens.dtype), tokens)
        tokens = self.vit.norm(self.vit.blocks(self.vit._pos_embed(tokens)))
        return tokens[:, 0], tokens[:, 1:]


class IBot(nn.Module):
    def __init__(self, arch, batch, device, tokens=8192):
        super().__init__()
        self.student = MaskedVit(arch)
        head = functools.partial(modules.DINOProjectionHead, self.student.vit.embed_dim, 2048, 256, tokens, norm_last_layer=False)
        # Weight norm cannot be copied.
        self.head, self.teacher_head = head(), head().requires_grad_(False)
        self.teacher = frozen_copy(self.student)
        self.cls_loss = lightly.loss.DINOLoss(output_dim=tokens)
        self.patch_loss = lightly.loss.IBOTPatchLoss(output_dim=tokens)
        self.batch = batch
        self.crops = images(2 * batch, 224, device), images(10 * batch, 96, device)

    def train(self, mode=True):
        super().train(mode)
        self.teacher.eval()  # no stochastic depth
        return self

    def forward(self):
        batch, (large, small) = self.batch, self.crops
        bits = random_mask(2 * batch, PATCHES, 59, large.device)
        bits[batch:] = False
        with torch.no_grad():
            cls, patches = self.teacher(large)
            cls, patches = self.teacher_head(cls), self.teacher_head(patches[bits])
        own_cls, own_patches = self.student(large, bits)
        local_cls, _ = self.student(small)
        found = self.head(torch.cat([own_cls, local_cls])).float()
        loss = self.cls_loss(list(cls.float().chunk(2)), list(found.chunk(12)))
        masked = bits.view(-1, 14, 14)[:batch]
        return loss + self.patch_loss(patches.float(), self.head(own_patches[bits]).float(), masked)

    def after_step(self):
        move(self.teacher, self.student)
        move(self.teacher_head, self.head)


class CrossBlock(nn.Module):
    """Self-attention, attention to features of the encoder, MLP."""

    def __init__(self, dim, heads):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.own = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.cross = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = timm.layers.Mlp(dim, 4 * dim)

    def forward(self, tokens, features):
        own = self.norms[0](tokens)
        tokens = tokens + self.own(own, own, own, need_weights=False)[0]
        tokens = tokens + self.cross(self.norms[1](tokens), features, features, need_weights=False)[0]
        return tokens + self.mlp(self.norms[2](tokens))


class Decoder(nn.Module):
    def __init__(self, encoder, dim, heads, outputs):
        super().__init__()
        self.tokens, self.features = nn.Linear(encoder, dim), nn.Linear(encoder, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(CrossBlock(dim, heads) for _ in range(2))
        self.output = nn.Linear(dim, outputs)

    def forward(self, tokens, features):
        tokens, features = self.tokens(tokens), self.features(features)
        tokens = torch.cat([tokens, self.mask_token.expand(len(tokens), PATCHES + 1 - tokens.shape[1], -1)], 1)
        for block in self.blocks:
            tokens = block(tokens, features)
        return self.output(tokens[:, -147:])


class BootMae(nn.Module):
    def __init__(self, arch, batch, device):
        super().__init__()
        dim, _, heads = VITS[arch]
        self.vit = timm.create_model(f"{arch}_patch16_224", num_classes=0)
        self.teacher = frozen_copy(self.vit)
        width = {"vit_tiny": 128, "vit_small": 256}.get(arch, 512)
        self.pixels, self.features = Decoder(dim, width, width // 64, 768), Decoder(dim, dim, heads, dim)
        self.images = images(batch, 224, device)

    def forward(self):
        tokens = self.vit._pos_embed(self.vit.patch_embed(self.images))
        batch, _, dim = tokens.shape
        order = torch.rand(batch, PATCHES, device=tokens.device).argsort(1)
        seen = (order[:, :49, None] + 1).expand(-1, -1, dim)
        tokens = torch.cat([tokens[:, :1], tokens.gather(1, seen)], 1)
        first = self.vit.blocks[0](tokens)
        last = self.vit.norm(self.vit.blocks[1:](first))
        with torch.no_grad():
            target = self.teacher.forward_features(self.images)[:, -147:].float()
        pixels = F.unfold(self.images, 16, stride=16).transpose(1, 2)[:, -147:]
        return F.mse_loss(self.pixels(last, first).float(), pixels) + F.mse_loss(self.features(last, last).float(), target)

    def after_step(self):
        move(self.teacher, self.vit)


PEERS = {"mae": Mae, "simmim": SimMim, "beit": Beit, "data2vec": Data2Vec, "ibot": IBot, "bootmae": BootMae}
