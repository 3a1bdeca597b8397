//! Checks every entry against the names and shapes of its file, at full depth and without values.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use mim_core::ParamStore;
use mim_core::decoders::{
    AggregationDecoder, AggregationDecoderConfig, DecoderShape, LatentDecoder, LatentRegressor,
    LatentRegressorConfig, LinearDecoder, MaeDecoder,
};
use mim_core::weights::{Source, WeightMap};
use mim_methods::{FrozenConfig, I2pMaeConfig, I2pMaeTarget};
use mim_targets::vqkd::{VqKdTokenizer, VqKdTokenizerConfig};

use super::*;

/// Names and shapes of a file.
type Headers = BTreeMap<String, Vec<usize>>;

fn put(headers: &mut Headers, name: impl Into<String>, shape: &[usize]) {
    headers.insert(name.into(), shape.to_vec());
}

fn pair(headers: &mut Headers, name: &str, shape: &[usize]) {
    put(headers, format!("{name}.weight"), shape);
    put(headers, format!("{name}.bias"), &shape[..1]);
}

/// Width, depth, heads and patch side of the ViT sizes.
fn size(entry: &Published) -> (usize, usize, usize, usize) {
    match entry.arch {
        "vit_small" if entry.method == "dinov2" => (384, 12, 6, 14),
        "vit_base" if entry.method == "dinov2" => (768, 12, 12, 14),
        "vit_large" if entry.method == "dinov2" => (1024, 24, 16, 14),
        "vit_huge" if entry.method == "pixio" => (1280, 32, 16, 16),
        "vit_base" if entry.method == "semmae" => (768, 12, 12, 8),
        "eva_giant" => (1408, 40, 16, 14),
        "vit_small" => (384, 12, 6, 16),
        "vit_base" => (768, 12, 12, 16),
        "vit_large" => (1024, 24, 16, 16),
        "vit_huge" => (1280, 32, 16, 14),
        other => panic!("{other} is not a ViT"),
    }
}

/// A block under the names of timm and MAE; `qkv` selects the bias of query, key and value: "full" or "qv".
fn block(headers: &mut Headers, block: &str, dim: usize, hidden: usize, qkv: &str) {
    for norm in ["norm1", "norm2"] {
        pair(headers, &format!("{block}.{norm}"), &[dim]);
    }
    put(headers, format!("{block}.attn.qkv.weight"), &[3 * dim, dim]);
    match qkv {
        "full" => put(headers, format!("{block}.attn.qkv.bias"), &[3 * dim]),
        _ => {
            put(headers, format!("{block}.attn.q_bias"), &[dim]);
            put(headers, format!("{block}.attn.v_bias"), &[dim]);
        }
    }
    pair(headers, &format!("{block}.attn.proj"), &[dim, dim]);
    pair(headers, &format!("{block}.mlp.fc1"), &[hidden, dim]);
    pair(headers, &format!("{block}.mlp.fc2"), &[dim, hidden]);
}

/// A ViT under the names of timm and MAE, each with `prefix`.
fn plain(entry: &Published, prefix: &str, qkv: &str, grid: Option<usize>) -> Headers {
    let (dim, depth, _, patch) = size(entry);
    let mut headers = Headers::new();
    put(&mut headers, format!("{prefix}cls_token"), &[1, 1, dim]);
    if let Some(side) = grid {
        let shape = [1, side * side + 1, dim];
        put(&mut headers, format!("{prefix}pos_embed"), &shape);
    }
    let proj = format!("{prefix}patch_embed.proj");
    pair(&mut headers, &proj, &[dim, 3, patch, patch]);
    pair(&mut headers, &format!("{prefix}norm"), &[dim]);
    for i in 0..depth {
        block(
            &mut headers,
            &format!("{prefix}blocks.{i}"),
            dim,
            4 * dim,
            qkv,
        );
    }
    headers
}

/// Layer scale and a shared table of relative positions, as in BEiT, SimMIM and data2vec.
fn beit(entry: &Published, prefix: &str) -> Headers {
    let (dim, depth, heads, _) = size(entry);
    let mut headers = plain(entry, prefix, "qv", None);
    for i in 0..depth {
        for gamma in ["gamma_1", "gamma_2"] {
            put(&mut headers, format!("{prefix}blocks.{i}.{gamma}"), &[dim]);
        }
    }
    put(&mut headers, format!("{prefix}mask_token"), &[1, 1, dim]);
    let relative = format!("{prefix}rel_pos_bias.relative_position");
    put(
        &mut headers,
        format!("{relative}_bias_table"),
        &[27 * 27 + 3, heads],
    );
    put(&mut headers, format!("{relative}_index"), &[197, 197]);
    headers
}

/// A block under the names of transformers' ViT, Swin (`own` is `self`), BEiT (no key bias) and DINOv2.
fn hf_block(headers: &mut Headers, block: &str, dim: usize, own: &str) {
    let (beit, dinov2) = (
        block.starts_with("beit"),
        block.starts_with("encoder.layer."),
    );
    let norms = match dinov2 {
        true => ["norm1", "norm2"],
        false => ["layernorm_before", "layernorm_after"],
    };
    for norm in norms {
        pair(headers, &format!("{block}.{norm}"), &[dim]);
    }
    for part in ["query", "key", "value"] {
        let name = format!("{block}.attention.{own}.{part}");
        put(headers, format!("{name}.weight"), &[dim, dim]);
        if !beit || part != "key" {
            put(headers, format!("{name}.bias"), &[dim]);
        }
    }
    let (fc1, fc2) = match dinov2 {
        true => ("mlp.fc1", "mlp.fc2"),
        false => ("intermediate.dense", "output.dense"),
    };
    let attention = format!("{block}.attention.output.dense");
    pair(headers, &attention, &[dim, dim]);
    pair(headers, &format!("{block}.{fc1}"), &[4 * dim, dim]);
    pair(headers, &format!("{block}.{fc2}"), &[dim, 4 * dim]);
    let scales = match (beit, dinov2) {
        (true, _) => &["lambda_1", "lambda_2"][..],
        (_, true) => &["layer_scale1.lambda1", "layer_scale2.lambda1"],
        _ => &[],
    };
    for scale in scales {
        put(headers, format!("{block}.{scale}"), &[dim]);
    }
}

/// transformers' BEiT, ViTMAE and DINOv2.
fn transformers(entry: &Published) -> Headers {
    let (dim, depth, heads, patch) = size(entry);
    let (model, norm) = match entry.source {
        "hf_beit" => ("beit.", "layernorm"),
        "hf_dinov2" => ("", "layernorm"),
        _ => ("vit.", "vit.layernorm"),
    };
    let mut headers = Headers::new();
    let embeddings = format!("{model}embeddings");
    put(
        &mut headers,
        format!("{embeddings}.cls_token"),
        &[1, 1, dim],
    );
    pair(
        &mut headers,
        &format!("{embeddings}.patch_embeddings.projection"),
        &[dim, 3, patch, patch],
    );
    pair(&mut headers, norm, &[dim]);
    for i in 0..depth {
        let block = format!("{model}encoder.layer.{i}");
        hf_block(&mut headers, &block, dim, "attention");
    }
    let positions = format!("{embeddings}.position_embeddings");
    let mask = format!("{embeddings}.mask_token");
    match entry.source {
        "hf_beit" => {
            put(&mut headers, mask, &[1, 1, dim]);
            let table = "beit.encoder.relative_position_bias.relative_position_bias_table";
            put(&mut headers, table, &[27 * 27 + 3, heads]);
            pair(&mut headers, "lm_head", &[8192, dim]);
        }
        "hf_dinov2" => {
            put(&mut headers, mask, &[1, dim]);
            put(&mut headers, positions, &[1, 37 * 37 + 1, dim]);
        }
        _ => {
            let tokens = (224 / patch) * (224 / patch) + 1;
            put(&mut headers, positions, &[1, tokens, dim]);
            put(&mut headers, "decoder.mask_token", &[1, 1, 512]);
            put(&mut headers, "decoder.decoder_pos_embed", &[1, tokens, 512]);
            pair(&mut headers, "decoder.decoder_embed", &[512, dim]);
            pair(&mut headers, "decoder.decoder_norm", &[512]);
            let pixels = [patch * patch * 3, 512];
            pair(&mut headers, "decoder.decoder_pred", &pixels);
            for i in 0..8 {
                let block = format!("decoder.decoder_layers.{i}");
                hf_block(&mut headers, &block, 512, "attention");
            }
        }
    }
    headers
}

fn swin(entry: &Published) -> Headers {
    let (dim, heads, window) = match entry.arch {
        "swin_base" => (128, 4, 6),
        _ => (192, 6, 12),
    };
    let mut headers = Headers::new();
    let embeddings = "swin.embeddings";
    put(
        &mut headers,
        format!("{embeddings}.mask_token"),
        &[1, 1, dim],
    );
    let projection = format!("{embeddings}.patch_embeddings.projection");
    pair(&mut headers, &projection, &[dim, 3, 4, 4]);
    pair(&mut headers, &format!("{embeddings}.norm"), &[dim]);
    pair(&mut headers, "swin.layernorm", &[8 * dim]);
    for (stage, depth) in [2, 2, 18, 2].into_iter().enumerate() {
        let dim = dim << stage;
        for i in 0..depth {
            let block = format!("swin.encoder.layers.{stage}.blocks.{i}");
            hf_block(&mut headers, &block, dim, "self");
            // The last grid is 6x6, so windows cannot be larger.
            let side = if stage == 3 { 6 } else { window };
            let relative = format!("{block}.attention.self.relative_position");
            let table = [(2 * side - 1usize).pow(2), heads << stage];
            put(&mut headers, format!("{relative}_bias_table"), &table);
            let index = [side * side, side * side];
            put(&mut headers, format!("{relative}_index"), &index);
        }
        if stage < 3 {
            let merging = format!("swin.encoder.layers.{stage}.downsample");
            pair(&mut headers, &format!("{merging}.norm"), &[4 * dim]);
            let reduction = format!("{merging}.reduction.weight");
            put(&mut headers, reduction, &[2 * dim, 4 * dim]);
        }
    }
    let pixels = 32 * 32 * 3;
    put(&mut headers, "decoder.0.weight", &[pixels, 8 * dim, 1, 1]);
    put(&mut headers, "decoder.0.bias", &[pixels]);
    headers
}

fn clip(entry: &Published) -> Headers {
    let (dim, depth, patch, tokens, projection) = match entry.arch {
        "clip_vit_base_patch16" => (768, 12, 16, 197, 512),
        _ => (1024, 24, 14, 257, 768),
    };
    let mut headers = Headers::new();
    let tower = "vision_model";
    for (name, shape) in [
        ("class_embedding", &[dim][..]),
        ("position_embedding.weight", &[tokens, dim]),
        ("position_ids", &[1, tokens]),
        ("patch_embedding.weight", &[dim, 3, patch, patch]),
    ] {
        put(&mut headers, format!("{tower}.embeddings.{name}"), shape);
    }
    put(&mut headers, "visual_projection.weight", &[projection, dim]);
    put(
        &mut headers,
        "text_projection.weight",
        &[projection, projection],
    );
    put(
        &mut headers,
        "text_model.final_layer_norm.weight",
        &[projection],
    );
    put(&mut headers, "logit_scale", &[]);
    for norm in ["pre_layrnorm", "post_layernorm"] {
        pair(&mut headers, &format!("{tower}.{norm}"), &[dim]);
    }
    for i in 0..depth {
        let block = format!("{tower}.encoder.layers.{i}");
        for norm in ["layer_norm1", "layer_norm2"] {
            pair(&mut headers, &format!("{block}.{norm}"), &[dim]);
        }
        for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            let name = format!("{block}.self_attn.{part}");
            pair(&mut headers, &name, &[dim, dim]);
        }
        pair(&mut headers, &format!("{block}.mlp.fc1"), &[4 * dim, dim]);
        pair(&mut headers, &format!("{block}.mlp.fc2"), &[dim, 4 * dim]);
    }
    headers
}

/// CMAE's encoder under mm's names, and the momentum encoder.
fn cmae(entry: &Published) -> Headers {
    let mut headers = Headers::new();
    for (name, shape) in plain(entry, "", "full", Some(14)) {
        let name = name
            .replace("norm1", "ln1")
            .replace("norm2", "ln2")
            .replace("mlp.fc1", "ffn.layers.0.0")
            .replace("mlp.fc2", "ffn.layers.1")
            .replace("blocks", "layers")
            .replace("patch_embed.proj", "patch_embed.projection");
        let name = match name.strip_prefix("norm.") {
            Some(rest) => format!("ln1.{rest}"),
            None => name,
        };
        if !name.starts_with("ln1") {
            put(&mut headers, format!("target_backbone.{name}"), &shape);
        }
        put(&mut headers, format!("backbone.{name}"), &shape);
    }
    headers
}

/// ConvMAE's encoder: convolutions in two stages, attention in the third.
fn dmjd(entry: &Published) -> Headers {
    let (dims, depth): ([usize; 3], _) = match entry.arch {
        "convmae_base" => ([256, 384, 768], 11),
        _ => ([384, 768, 1024], 23),
    };
    let mut headers = Headers::new();
    put(&mut headers, "pos_embed", &[1, 196, dims[2]]);
    for (stage, patch, channels) in [(1, 4, 3), (2, 2, dims[0]), (3, 2, dims[1])] {
        let dim = dims[stage - 1];
        let embed = format!("patch_embed{stage}");
        pair(
            &mut headers,
            &format!("{embed}.proj"),
            &[dim, channels, patch, patch],
        );
        pair(&mut headers, &format!("{embed}.norm"), &[dim]);
    }
    pair(&mut headers, "patch_embed4", &[dims[2], dims[2]]);
    pair(&mut headers, "norm", &[dims[2]]);
    for (stage, stride) in [(1, 4), (2, 2)] {
        let dim = dims[stage - 1];
        let output = format!("stage{stage}_output_decode");
        pair(&mut headers, &output, &[dims[2], dim, stride, stride]);
        for i in 0..2 {
            let block = format!("blocks{stage}.{i}");
            for norm in ["norm1", "norm2"] {
                pair(&mut headers, &format!("{block}.{norm}"), &[dim]);
            }
            for conv in ["conv1", "conv2"] {
                let name = format!("{block}.{conv}");
                pair(&mut headers, &name, &[dim, dim, 1, 1]);
            }
            pair(&mut headers, &format!("{block}.attn"), &[dim, 1, 5, 5]);
            let (fc1, fc2) = ([8 * dim, dim, 1, 1], [dim, 8 * dim, 1, 1]);
            pair(&mut headers, &format!("{block}.mlp.fc1"), &fc1);
            pair(&mut headers, &format!("{block}.mlp.fc2"), &fc2);
        }
    }
    for i in 0..depth {
        block(
            &mut headers,
            &format!("blocks3.{i}"),
            dims[2],
            4 * dims[2],
            "full",
        );
    }
    headers
}

/// CAPI's encoder, with its registers.
fn capi() -> Headers {
    let (dim, mut headers) = (1024, Headers::new());
    put(&mut headers, "backbone.registers", &[1, 16, dim]);
    pair(&mut headers, "backbone.patch_embed", &[dim, 3, 14, 14]);
    for i in 0..24 {
        let block = format!("backbone.encoder.blocks.{i}");
        let attention = format!("{block}.residual1.fn");
        for part in ["q_proj", "k_proj", "v_proj", "proj"] {
            put(
                &mut headers,
                format!("{attention}.{part}.weight"),
                &[dim, dim],
            );
        }
        put(&mut headers, format!("{attention}.rope.freqs"), &[2, 64]);
        for half in ["residual1", "residual2"] {
            put(&mut headers, format!("{block}.{half}.norm.weight"), &[dim]);
        }
        let mlp = format!("{block}.residual2.fn");
        put(&mut headers, format!("{mlp}.fc1.weight"), &[4 * dim, dim]);
        put(&mut headers, format!("{mlp}.fc2.weight"), &[dim, 4 * dim]);
    }
    headers
}

fn other_class_tokens(entry: &Published) -> Headers {
    let (dim, _, _, patch) = size(entry);
    let mut headers = plain(entry, "", "full", None);
    match entry.method {
        // Both encoders have these names, in separate parts of their checkpoint.
        "ijepa" => {
            headers = plain(entry, "module.", "full", None);
            headers.remove("module.cls_token");
            put(&mut headers, "module.pos_embed", &[1, 16 * 16, dim]);
        }
        "pixio" => {
            put(&mut headers, "cls_token", &[1, 8, dim]);
            put(&mut headers, "pos_embed", &[1, 8 + 16 * 16, dim]);
        }
        _ => {
            headers.remove("cls_token");
            put(&mut headers, "cls_tokens.tokens", &[1, 1, dim]);
            let side = 224 / patch;
            put(&mut headers, "pos_embed.embed", &[1, side, side, dim]);
        }
    }
    headers
}

/// EVA's giant, which has no layer scale and no relative positions.
fn eva(entry: &Published) -> Headers {
    let (dim, depth, ..) = size(entry);
    let mut headers = plain(entry, "", "qv", Some(16));
    put(&mut headers, "mask_token", &[1, 1, dim]);
    pair(&mut headers, "lm_head", &[768, dim]);
    for i in 0..depth {
        let mlp = format!("blocks.{i}.mlp");
        pair(&mut headers, &format!("{mlp}.fc1"), &[6144, dim]);
        pair(&mut headers, &format!("{mlp}.fc2"), &[dim, 6144]);
    }
    headers
}

/// CAE's two encoders, its regressor and its decoder, whose heads are always twelve.
fn cae(entry: &Published) -> Headers {
    let (dim, depth, ..) = size(entry);
    let inner = dim / 12 * 12;
    let mut headers = Headers::new();
    for prefix in ["encoder.", "alignment_encoder."] {
        headers.extend(plain(entry, prefix, "qv", Some(14)));
        for (i, gamma) in (0..depth).flat_map(|i| [(i, "gamma_1"), (i, "gamma_2")]) {
            put(&mut headers, format!("{prefix}blocks.{i}.{gamma}"), &[dim]);
        }
    }
    put(&mut headers, "mask_token", &[1, 1, dim]);
    put(&mut headers, "rd_pos_embed", &[1, 197, dim]);
    for i in 0..4 {
        cae_block(&mut headers, i, (dim, inner));
    }
    pair(&mut headers, "regresser.norm", &[dim]);
    pair(&mut headers, "decoder.norm", &[dim]);
    pair(&mut headers, "decoder.head", &[8192, dim]);
    headers
}

/// A block of CAE's regressor, and one of its decoder.
fn cae_block(headers: &mut Headers, i: usize, (dim, inner): (usize, usize)) {
    let cross_block = format!("regresser.regressor_blocks.{i}");
    for norm in ["norm1_q", "norm1_k", "norm1_v", "norm2_cross"] {
        pair(headers, &format!("{cross_block}.{norm}"), &[dim]);
    }
    let cross = format!("{cross_block}.cross_attn");
    for part in ["q", "k", "v"] {
        put(headers, format!("{cross}.{part}.weight"), &[inner, dim]);
    }
    for bias in ["q_bias", "v_bias"] {
        put(headers, format!("{cross}.{bias}"), &[inner]);
    }
    pair(headers, &format!("{cross}.proj"), &[dim, inner]);
    pair(
        headers,
        &format!("{cross_block}.mlp_cross.fc1"),
        &[4 * dim, dim],
    );
    pair(
        headers,
        &format!("{cross_block}.mlp_cross.fc2"),
        &[dim, 4 * dim],
    );
    let own = format!("decoder.decoder_blocks.{i}");
    block(headers, &own, dim, 4 * dim, "qv");
    put(headers, format!("{own}.attn.qkv.weight"), &[3 * inner, dim]);
    put(headers, format!("{own}.attn.q_bias"), &[inner]);
    put(headers, format!("{own}.attn.v_bias"), &[inner]);
    put(headers, format!("{own}.attn.proj.weight"), &[dim, inner]);
    for gamma in ["gamma_1", "gamma_2"] {
        put(headers, format!("{cross_block}.{gamma}_cross"), &[dim]);
        put(headers, format!("{own}.{gamma}"), &[dim]);
    }
}

/// BEiT v2's tokenizer, without the decoder that trained it.
fn vqkd(entry: &Published) -> Headers {
    let (dim, ..) = size(entry);
    let mut headers = Headers::new();
    for (name, shape) in plain(entry, "encoder.", "qv", Some(14)) {
        put(
            &mut headers,
            name.replace("encoder.norm.", "encoder.fc_norm."),
            &shape,
        );
    }
    pair(&mut headers, "encode_task_layer.0", &[dim, dim]);
    pair(&mut headers, "encode_task_layer.2", &[32, dim]);
    for (name, shape) in [
        ("embedding.weight", &[8192, 32][..]),
        ("embedding.embed_avg", &[8192, 32]),
        ("embedding.cluster_size", &[8192]),
        ("embedding.initted", &[1]),
        ("cluster_size", &[8192]),
    ] {
        put(&mut headers, format!("quantize.{name}"), shape);
    }
    headers
}

/// A convolution over points.
fn conv(headers: &mut Headers, name: &str, outputs: usize, inputs: usize) {
    pair(headers, name, &[outputs, inputs, 1]);
}

/// A batch norm.
fn norm(headers: &mut Headers, name: &str, dim: usize) {
    pair(headers, name, &[dim]);
    for statistic in ["running_mean", "running_var"] {
        put(headers, format!("{name}.{statistic}"), &[dim]);
    }
    put(headers, format!("{name}.num_batches_tracked"), &[]);
}

/// The blocks of a level of I2P-MAE, and the layers that embed its positions.
fn level(headers: &mut Headers, (blocks, positions): (&str, &str), dim: usize, depth: usize) {
    pair(headers, &format!("{positions}.0"), &[dim, 3]);
    pair(headers, &format!("{positions}.2"), &[dim, dim]);
    for j in 0..depth {
        let own = format!("{blocks}.blocks.{j}");
        block(headers, &own, dim, 4 * dim, "full");
        headers.remove(&format!("{own}.attn.qkv.bias"));
    }
}

/// The encoder of I2P-MAE.
fn i2pmae_encoder(headers: &mut Headers) {
    let dims = [96, 192, 384];
    let sizes = [(3, 128, 256, 512), (96, 96, 96, 192), (192, 192, 192, 384)];
    for (i, (inputs, first, second, joined)) in sizes.into_iter().enumerate() {
        let embed = format!("h_encoder.token_embed.{i}");
        conv(headers, &format!("{embed}.first_conv.0"), first, inputs);
        norm(headers, &format!("{embed}.first_conv.1"), first);
        conv(headers, &format!("{embed}.first_conv.3"), second, first);
        conv(
            headers,
            &format!("{embed}.second_conv.0"),
            joined,
            2 * second,
        );
        norm(headers, &format!("{embed}.second_conv.1"), joined);
        conv(headers, &format!("{embed}.second_conv.3"), dims[i], joined);
        let positions = format!("h_encoder.encoder_pos_embeds.{i}");
        let blocks = format!("h_encoder.encoder_blocks.{i}");
        level(headers, (&blocks, &positions), dims[i], 5);
        pair(headers, &format!("h_encoder.encoder_norms.{i}"), &[dims[i]]);
    }
}

/// The point networks of I2P-MAE; the same file contains CLIP.
fn i2pmae() -> Headers {
    let mut headers = Headers::new();
    i2pmae_encoder(&mut headers);
    for (i, dim) in [384, 192].into_iter().enumerate() {
        let positions = format!("decoder_pos_embeds.{i}");
        level(
            &mut headers,
            (&format!("h_decoder.{i}"), &positions),
            dim,
            1,
        );
    }
    put(&mut headers, "mask_token", &[1, 384]);
    conv(&mut headers, "token_prop.0.fuse.net.0", 192, 576);
    norm(&mut headers, "token_prop.0.fuse.net.1", 192);
    for net in ["net1", "net2"] {
        let net = format!("token_prop.0.extraction.operation.0.{net}");
        conv(&mut headers, &format!("{net}.0"), 192, 192);
        norm(&mut headers, &format!("{net}.1"), 192);
    }
    pair(&mut headers, "decoder_norm", &[192]);
    conv(&mut headers, "rec_head_3d", 24, 192);
    conv(&mut headers, "rec_head_2d", 8 * 3 * 512, 192);
    put(
        &mut headers,
        "clip_model.visual.conv1.weight",
        &[768, 3, 16, 16],
    );
    headers
}

/// MAE's names, with separate queries, keys and values.
fn saim(entry: &Published, grid: Option<usize>) -> Headers {
    let mut headers = plain(entry, "", "full", grid);
    let (dim, depth, ..) = size(entry);
    headers.retain(|name, _| !name.contains("attn.qkv."));
    for i in 0..depth {
        for part in ["q", "k", "v"] {
            pair(
                &mut headers,
                &format!("blocks.{i}.attn.{part}"),
                &[dim, dim],
            );
        }
    }
    headers
}

/// The tensors in the file of an entry, as specified by its source; decoders and heads only if mim has them too.
fn headers(entry: &Published) -> Headers {
    let grid = Some(224 / if entry.arch == "vit_huge" { 14 } else { 16 });
    match (entry.method, entry.source) {
        ("clip", _) => clip(entry),
        ("eva", _) => eva(entry),
        ("cae", _) => cae(entry),
        ("vqkd", _) => vqkd(entry),
        ("i2pmae", _) => i2pmae(),
        ("cmae", _) => cmae(entry),
        ("dmjd", _) => dmjd(entry),
        (_, "hf_swin") => swin(entry),
        ("simmim", _) => {
            let mut headers = beit(entry, "encoder.");
            put(&mut headers, "decoder.0.weight", &[768, 768, 1, 1]);
            put(&mut headers, "decoder.0.bias", &[768]);
            headers
        }
        (_, "beit") => {
            let mut headers = beit(entry, "");
            let (dim, ..) = size(entry);
            let outputs = if entry.method == "data2vec" {
                dim
            } else {
                8192
            };
            pair(&mut headers, "lm_head", &[outputs, dim]);
            for i in (0..2).filter(|_| entry.method == "beitv2") {
                let own = format!("cls_pt_layers.{i}");
                block(&mut headers, &own, dim, 4 * dim, "qv");
                for gamma in ["gamma_1", "gamma_2"] {
                    put(&mut headers, format!("{own}.{gamma}"), &[dim]);
                }
            }
            headers
        }
        ("capi", _) => capi(),
        ("ijepa" | "pixio" | "mimrefiner", _) => other_class_tokens(entry),
        (_, "hf_beit" | "hf_vit_mae" | "hf_dinov2") => transformers(entry),
        ("bootmae", _) => plain(entry, "", "qv", grid),
        ("semmae", _) => plain(entry, "", "full", Some(28)),
        ("saim", _) => saim(entry, grid),
        ("fastmim", _) => plain(entry, "", "full", Some(8)),
        ("moco_v3", _) => plain(entry, "module.base_encoder.", "full", grid),
        ("sim" | "crossmae", _) => {
            let mut headers = plain(entry, "", "full", grid);
            headers.retain(|name, _| !name.starts_with("norm."));
            headers
        }
        _ => plain(entry, "", "full", grid),
    }
}

/// The encoder with one block instead of many, and how often each of its blocks occurs at full depth.
fn cut(encoder: EncoderConfig) -> (EncoderConfig, Vec<(String, usize)>) {
    match encoder {
        EncoderConfig::Vit(vit) => {
            let repeated = vec![("blocks.".to_owned(), vit.depth)];
            (VitConfig { depth: 1, ..vit }.into(), repeated)
        }
        EncoderConfig::Swin(swin) => {
            let repeated = swin.depths.iter().enumerate();
            let repeated = repeated
                .map(|(stage, depth)| (format!("layers.{stage}.blocks."), *depth))
                .collect();
            let one = SwinConfig {
                depths: vec![1; 4],
                ..swin
            };
            (one.into(), repeated)
        }
        EncoderConfig::ConvMae(conv) => {
            let repeated = conv.depths.iter().enumerate();
            let repeated = repeated
                .map(|(stage, depth)| (format!("blocks{}.", stage + 1), *depth))
                .collect();
            let one = ConvMaeConfig {
                depths: [1; 3],
                ..conv
            };
            (one.into(), repeated)
        }
        EncoderConfig::RopeVit(vit) => {
            let repeated = vec![("blocks.".to_owned(), vit.depth)];
            (RopeVitConfig { depth: 1, ..vit }.into(), repeated)
        }
        other => panic!("{other:?} is not in the zoo"),
    }
}

/// Names and shapes of entries without an image encoder: a tokenizer, and point networks.
fn others(entry: &Published) -> Option<Headers> {
    let store = ParamStore::teacher(&Device::Cpu);
    match entry.method {
        "vqkd" => {
            VqKdTokenizer::new(&store.root(), &VqKdTokenizerConfig::default()).unwrap();
        }
        "i2pmae" => {
            // As wide as CLIP's features, which are not in the store.
            let network = VitConfig {
                embed_dim: 512,
                depth: 1,
                num_heads: 8,
                ..VitConfig::default()
            };
            let target = FrozenConfig {
                checkpoint: "random".to_owned(),
                encoder: network.into(),
                ..FrozenConfig::default()
            };
            let config = I2pMaeConfig {
                target: I2pMaeTarget::Features(Box::new(target)),
                ..I2pMaeConfig::default()
            };
            config.build(&store).unwrap();
        }
        _ => return None,
    }
    let vars = store.vars().into_iter();
    Some(
        vars.map(|(name, var)| (name, var.dims().to_vec()))
            .collect(),
    )
}

/// Names and shapes of mim's encoder, and of the decoder or head in the same file.
fn ours(entry: &Published) -> Headers {
    if let Some(others) = others(entry) {
        return others;
    }
    let (encoder, mut repeated) = cut(entry.encoder().unwrap());
    let store = ParamStore::teacher(&Device::Cpu);
    encoder.build(&store.root()).unwrap();
    let dim = encoder.dim();
    if let Some(decoder) = entry.decoder() {
        let decoder = MaeDecoderConfig {
            depth: 1,
            ..decoder
        };
        repeated.push(("decoder_blocks.".to_owned(), 8));
        let shape = DecoderShape::new(encoder.grid().unwrap(), dim, encoder.patch_values());
        MaeDecoder::new(&store.root(), &decoder, shape).unwrap();
    }
    let outputs = match (entry.method, entry.source) {
        ("simmim", "simmim") => Some(768),
        ("simmim", _) => Some(32 * 32 * 3),
        ("beit" | "beitv2" | "mcbeit", _) => Some(8192),
        ("data2vec", _) => Some(dim),
        ("eva", _) => Some(768),
        _ => None,
    };
    if entry.method == "cae" {
        let config = LatentRegressorConfig {
            depth: 1,
            decoder_depth: 1,
            ..CaeConfig::arch(entry.arch).unwrap().regressor
        };
        repeated.extend(["regressor.blocks.", "decoder_blocks."].map(|stem| (stem.to_owned(), 4)));
        let (root, grid) = (store.root(), encoder.grid().unwrap());
        let regressor = LatentRegressor::new(&root, &config, grid, dim).unwrap();
        LatentDecoder::new(&root, &config, &regressor, 8192).unwrap();
    }
    if let Some(outputs) = outputs {
        LinearDecoder::new(&store.root(), dim, outputs).unwrap();
    }
    if let (EncoderConfig::Vit(vit), "beitv2") = (&encoder, entry.method) {
        let config = AggregationDecoderConfig {
            layer: 0,
            ..AggregationDecoderConfig::default()
        };
        AggregationDecoder::new(&store.root(), &config, vit, 8192).unwrap();
    }
    let mut headers = Headers::new();
    for (name, var) in store.vars() {
        let of = repeated.iter().find_map(|(stem, depth)| {
            Some((stem, name.strip_prefix(&format!("{stem}0."))?, *depth))
        });
        match of {
            Some((stem, rest, depth)) => {
                (0..depth).for_each(|i| put(&mut headers, format!("{stem}{i}.{rest}"), var.dims()));
            }
            None => put(&mut headers, name, var.dims()),
        }
    }
    headers
}

#[test]
fn every_entry_maps_onto_our_model_without_missing_or_extra_tensors() {
    let zero = Tensor::zeros((), DType::U8, &Device::Cpu).unwrap();
    for entry in ZOO {
        // Every tensor is one zero broadcast to its shape, so the test needs little memory.
        let theirs: WeightMap = headers(entry)
            .into_iter()
            .map(|(name, shape)| (name, zero.broadcast_as(shape).unwrap()))
            .collect();
        let source = Source::named(entry.source).unwrap();
        let imported: Headers = source
            .import(&theirs)
            .unwrap()
            .iter()
            .filter(|(name, _)| !name.starts_with("teacher."))
            .map(|(name, tensor)| (name.to_owned(), tensor.dims().to_vec()))
            .collect();
        let ours = ours(entry);
        let differs = |a: &Headers, b: &Headers| {
            let lines = a.iter().filter(|(name, shape)| b.get(*name) != Some(shape));
            lines.map(|line| format!("{line:?}")).collect::<Vec<_>>()
        };
        let none: [String; 0] = [];
        assert_eq!(differs(&ours, &imported), none, "missing: {}", entry.name);
        assert_eq!(differs(&imported, &ours), none, "left over: {}", entry.name);
    }
}

#[test]
fn entries_have_unique_names_and_known_norms() {
    for (at, entry) in ZOO.iter().enumerate() {
        let same = ZOO[..at].iter().any(|other| other.name == entry.name);
        assert!(!same, "{}", entry.name);
        let Ok(encoder) = entry.encoder() else {
            assert!(others(entry).is_some(), "{}", entry.name);
            continue;
        };
        entry.images.norm().check(encoder.in_channels()).unwrap();
        if !matches!(
            encoder,
            EncoderConfig::Vit(VitConfig { any_size: true, .. })
        ) {
            assert_eq!(
                encoder.image_size(),
                entry.image_size().into(),
                "{}",
                entry.name
            );
        }
    }
}

#[test]
fn errors_for_weights_without_an_encoder_name_their_use() {
    let error = |name: &str| named(name).unwrap().encoder().unwrap_err().to_string();
    let tokens = error("vqkd_base");
    assert!(
        tokens.contains("tokenizer") && tokens.contains("target.checkpoint"),
        "{tokens}"
    );
    let points = error("i2pmae");
    assert!(
        points.contains("point clouds") && points.contains("--init"),
        "{points}"
    );
}

#[test]
fn zoo_names_resolve_to_paths() {
    let (entry, path) = find(Path::new("zoo:mae_base_hf")).unwrap().unwrap();
    assert_eq!(
        (entry.source, path.as_path()),
        ("hf_vit_mae", Path::new("hf:facebook/vit-mae-base"))
    );
    let (entry, path) = find(Path::new("zoo:mae_base=a=b.pth")).unwrap().unwrap();
    assert_eq!(
        (entry.source, path.as_path()),
        ("mae", Path::new("a=b.pth"))
    );
    assert!(find(Path::new("mae_base")).unwrap().is_none());
    let error = |path: &str| find(Path::new(path)).unwrap_err().to_string();
    let outside = error("zoo:mae_base");
    assert!(
        outside.contains("dl.fbaipublicfiles.com") && outside.contains("zoo:mae_base=PATH"),
        "{outside}"
    );
    assert!(error("zoo:mae").contains("mae_base_hf"));
}
