//! The table.

use super::Home::{self, Hub, Page};
use super::Images::{self, Clip, Half, Imagenet, ReversedImagenet, Unit};
use super::Published;

const NON_COMMERCIAL: &str = "CC-BY-NC-4.0";
const MAE_CARD: &str = "apache-2.0 (its card; the authors' repository: CC-BY-NC-4.0)";
const APACHE: &str = "apache-2.0";
const MIT: &str = "MIT";
const UNKNOWN: &str = "not recorded; see the source";

/// Targets that are pixels normalised in each patch, plain pixels, or something else.
const PATCHES: Option<bool> = Some(true);
const PIXELS: Option<bool> = Some(false);
const OTHER: Option<bool> = None;

/// A row, in the order of the fields.
const fn row(
    [name, method, arch]: [&'static str; 3],
    (home, source): (Home, &'static str),
    licence: &'static str,
    (images, norm_pix_loss): (Images, Option<bool>),
    numbers: &'static str,
) -> Published {
    Published {
        name,
        method,
        arch,
        home,
        source,
        licence,
        images,
        norm_pix_loss,
        numbers,
    }
}

/// A file of the MAE authors.
macro_rules! mae_file {
    ($name:literal) => {
        Page(concat!(
            "https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_",
            $name,
            ".pth"
        ))
    };
}

const MAE_B: &str = "83.66 fine-tuned (MAE, FINETUNE.md)";
const MAE_L: &str = "85.95 fine-tuned (MAE, FINETUNE.md)";
const MAE_H: &str = "86.93 fine-tuned (MAE, FINETUNE.md)";

const MAE: (Images, Option<bool>) = (Imagenet, PATCHES);
const FEATURES: (Images, Option<bool>) = (Imagenet, OTHER);

const SIMMIM: Home = Page("https://github.com/microsoft/SimMIM");
const BEIT: Home = Page("https://github.com/microsoft/unilm/tree/master/beit");
const BEIT_V2: Home = Page("https://github.com/microsoft/unilm/tree/master/beit2");
const IBOT: Home = Page("https://github.com/bytedance/ibot");
const EVA: Home = Page("https://huggingface.co/BAAI/EVA/resolve/main/eva_psz14.pt");
const CAE: Home = Page("https://github.com/Atten4Vis/CAE");
const DBOT: Home = Page("https://github.com/liuxingbin/dbot");
/// A file of the CrossMAE authors.
macro_rules! crossmae_file {
    ($size:literal) => {
        Page(concat!(
            "https://huggingface.co/longlian/CrossMAE/resolve/main/vit",
            $size,
            "-mr0.75-kmr0.75-dd12/imagenet-mae-cross-vit",
            $size,
            "-pretrain-wfm-mr0.75-kmr0.75-dd12-ep800-ui.pth"
        ))
    };
}

/// A file of the Pixio authors.
macro_rules! pixio_file {
    ($size:literal) => {
        Page(concat!(
            "https://huggingface.co/facebook/pixio-vit",
            $size,
            "16/resolve/main/pixio_vit",
            $size,
            "16.pth"
        ))
    };
}

/// A file of the CAPI authors.
macro_rules! capi_file {
    ($data:literal) => {
        Page(concat!(
            "https://dl.fbaipublicfiles.com/capi/capi_vitl14_",
            $data,
            ".pth"
        ))
    };
}

const FAIR: &str = "FAIR Noncommercial Research License";
const IJEPA_1K: Home = Page("https://dl.fbaipublicfiles.com/ijepa/IN1K-vit.h.14-300e.pth.tar");
const IJEPA_22K: Home = Page("https://dl.fbaipublicfiles.com/ijepa/IN22K-vit.h.14-900e.pth.tar");
const REFINER: Home = Page("https://ml.jku.at/research/mimrefiner/download/");
const BOOTMAE: Home = Page("https://github.com/LightDXY/BootMAE");

/// All known published weights.
#[rustfmt::skip]
pub const ZOO: &[Published] = &[
    row(["mae_base", "mae", "vit_base"], (mae_file!("base"), "mae"), NON_COMMERCIAL, MAE, MAE_B),
    row(["mae_large", "mae", "vit_large"], (mae_file!("large"), "mae"), NON_COMMERCIAL, MAE, MAE_L),
    row(["mae_huge", "mae", "vit_huge"], (mae_file!("huge"), "mae"), NON_COMMERCIAL, MAE, MAE_H),
    row(["mae_base_timm", "mae", "vit_base"], (Hub("timm/vit_base_patch16_224.mae"), "timm"), NON_COMMERCIAL, MAE, MAE_B),
    row(["mae_large_timm", "mae", "vit_large"], (Hub("timm/vit_large_patch16_224.mae"), "timm"), NON_COMMERCIAL, MAE, MAE_L),
    row(["mae_huge_timm", "mae", "vit_huge"], (Hub("timm/vit_huge_patch14_224.mae"), "timm"), NON_COMMERCIAL, MAE, MAE_H),
    row(["mae_base_hf", "mae", "vit_base"], (Hub("facebook/vit-mae-base"), "hf_vit_mae"), MAE_CARD, MAE, ""),
    row(["mae_large_hf", "mae", "vit_large"], (Hub("facebook/vit-mae-large"), "hf_vit_mae"), MAE_CARD, MAE, ""),
    row(["mae_huge_hf", "mae", "vit_huge"], (Hub("facebook/vit-mae-huge"), "hf_vit_mae"), MAE_CARD, MAE, ""),
    row(["simmim_swin_base", "simmim", "swin_base"], (Hub("microsoft/swin-base-simmim-window6-192"), "hf_swin"), UNKNOWN, (Imagenet, PIXELS), ""),
    row(["simmim_swin_large", "simmim", "swin_large"], (Hub("microsoft/swin-large-simmim-window12-192"), "hf_swin"), UNKNOWN, (Imagenet, PIXELS), "85.4 fine-tuned, 800 epochs (SimMIM, README)"),
    row(["simmim_base", "simmim", "vit_base"], (SIMMIM, "simmim"), UNKNOWN, (Imagenet, PIXELS), "83.8 fine-tuned, 800 epochs (SimMIM, README)"),
    row(["beit_base", "beit", "vit_base"], (Hub("microsoft/beit-base-patch16-224-pt22k"), "hf_beit"), UNKNOWN, (Half, OTHER), "83.7 fine-tuned (BEiT, README)"),
    row(["beit_base_authors", "beit", "vit_base"], (BEIT, "beit"), UNKNOWN, (Half, OTHER), "83.7 fine-tuned (BEiT, README)"),
    row(["beit_large_authors", "beit", "vit_large"], (BEIT, "beit"), UNKNOWN, (Half, OTHER), "86.0 fine-tuned (BEiT, README)"),
    row(["beitv2_base", "beitv2", "vit_base"], (BEIT_V2, "beit"), UNKNOWN, FEATURES, "85.5 fine-tuned, 1600 epochs (BEiT v2, README)"),
    row(["beitv2_large", "beitv2", "vit_large"], (BEIT_V2, "beit"), UNKNOWN, FEATURES, "87.3 fine-tuned, 1600 epochs (BEiT v2, README)"),
    row(["vqkd_base", "vqkd", "vit_base"], (BEIT_V2, "vqkd"), UNKNOWN, (Half, OTHER), ""),
    row(["mcbeit_base", "mcbeit", "vit_base"], (Page("https://github.com/lixiaotong97/mc-BEiT"), "beit"), UNKNOWN, FEATURES, "84.1 fine-tuned, 800 epochs (mc-BEiT, README)"),
    row(["mcbeit_large", "mcbeit", "vit_large"], (Page("https://github.com/lixiaotong97/mc-BEiT"), "beit"), UNKNOWN, FEATURES, "85.6 fine-tuned, 800 epochs (mc-BEiT, README)"),
    row(["data2vec_base", "data2vec", "vit_base"], (Page("https://github.com/facebookresearch/data2vec_vision"), "beit"), UNKNOWN, FEATURES, "84.2 fine-tuned, 800 epochs (data2vec, README)"),
    row(["cae_base", "cae", "vit_base"], (CAE, "cae"), UNKNOWN, FEATURES, "83.9 fine-tuned, 70.3 linear, 1600 epochs (CAE, README)"),
    row(["cae_large", "cae", "vit_large"], (CAE, "cae"), UNKNOWN, FEATURES, "86.2 fine-tuned, 77.8 linear, 1600 epochs (CAE, README)"),
    row(["eva_giant", "eva", "eva_giant"], (EVA, "beit"), UNKNOWN, (Clip, OTHER), "89.6 fine-tuned with 336 pixels after IN-21K (EVA, README)"),
    row(["bootmae_base", "bootmae", "vit_base"], (BOOTMAE, "bootmae"), UNKNOWN, (Half, OTHER), "84.2 fine-tuned, 66.1 linear, 800 epochs (BootMAE, README)"),
    row(["bootmae_large", "bootmae", "vit_large"], (BOOTMAE, "bootmae"), UNKNOWN, (Half, OTHER), "85.9 fine-tuned, 77.1 linear, 800 epochs (BootMAE, README)"),
    row(["sim_base", "sim", "vit_base"], (Page("https://github.com/OpenGVLab/Siamese-Image-Modeling"), "sim"), UNKNOWN, FEATURES, "84.1 fine-tuned, 78.0 linear, 1600 epochs (SIM, README)"),
    row(["cmae_base", "cmae", "vit_base"], (Page("https://cmae.s3.us-west-1.amazonaws.com/weight/cmae_vit-base-p16_32xb128-coslr-1600e_in1k.pth"), "cmae"), UNKNOWN, (ReversedImagenet, PATCHES), "84.7 fine-tuned, 1600 epochs (CMAE, README)"),
    row(["ijepa_huge", "ijepa", "vit_huge"], (IJEPA_1K, "ijepa"), NON_COMMERCIAL, FEATURES, ""),
    row(["ijepa_huge_in22k", "ijepa", "vit_huge"], (IJEPA_22K, "ijepa"), NON_COMMERCIAL, FEATURES, ""),
    row(["crossmae_small", "crossmae", "vit_small"], (crossmae_file!("s"), "mae"), NON_COMMERCIAL, MAE, "79.318 fine-tuned (CrossMAE, README)"),
    row(["crossmae_base", "crossmae", "vit_base"], (crossmae_file!("b"), "mae"), NON_COMMERCIAL, MAE, "83.722 fine-tuned (CrossMAE, README)"),
    row(["crossmae_large", "crossmae", "vit_large"], (crossmae_file!("l"), "mae"), NON_COMMERCIAL, MAE, "85.432 fine-tuned (CrossMAE, README)"),
    row(["pixio_base", "pixio", "vit_base"], (pixio_file!("b"), "mae"), FAIR, MAE, ""),
    row(["pixio_large", "pixio", "vit_large"], (pixio_file!("l"), "mae"), FAIR, MAE, ""),
    row(["pixio_huge", "pixio", "vit_huge"], (pixio_file!("h"), "mae"), FAIR, MAE, ""),
    row(["capi_large", "capi", "vit_large"], (capi_file!("in1k"), "capi"), APACHE, FEATURES, "82.9 attentive probe (CAPI, README)"),
    row(["capi_large_in22k", "capi", "vit_large"], (capi_file!("i22k"), "capi"), APACHE, FEATURES, "83.6 attentive probe (CAPI, README)"),
    row(["capi_large_lvd", "capi", "vit_large"], (capi_file!("lvd"), "capi"), APACHE, FEATURES, "83.8 attentive probe (CAPI, README)"),
    row(["capi_large_p205", "capi", "vit_large"], (capi_file!("p205"), "capi"), APACHE, FEATURES, "79.2 attentive probe (CAPI, README)"),
    row(["mimrefiner_large", "mimrefiner", "vit_large"], (REFINER, "mimrefiner"), MIT, FEATURES, ""),
    row(["mimrefiner_huge", "mimrefiner", "vit_huge"], (REFINER, "mimrefiner"), MIT, FEATURES, ""),
    row(["i2pmae", "i2pmae", "point_m2ae"], (Page("https://github.com/ZrrSkywalker/I2P-MAE"), "i2pmae"), UNKNOWN, (Unit, OTHER), ""),
    row(["milan_base", "milan", "vit_base"], (Page("https://github.com/zejiangh/MILAN"), "milan"), UNKNOWN, FEATURES, "85.4 fine-tuned, 400 epochs (MILAN, abstract)"),
    row(["fastmim_base", "fastmim", "vit_base"], (Page("https://github.com/ggjy/FastMIM.pytorch"), "fastmim"), UNKNOWN, FEATURES, "83.8 fine-tuned (FastMIM)"),
    row(["dmjd_base", "dmjd", "convmae_base"], (Page("https://github.com/mx-mark/DMJD"), "dmjd"), UNKNOWN, FEATURES, "85.2 fine-tuned, 76.7 linear (DMJD, README)"),
    row(["dmjd_large", "dmjd", "convmae_large"], (Page("https://github.com/mx-mark/DMJD"), "dmjd"), UNKNOWN, FEATURES, "86.3 fine-tuned, 79.7 linear (DMJD, README)"),
    row(["ibot_small", "ibot", "vit_small"], (IBOT, "ibot"), APACHE, FEATURES, "75.2 k-NN, 77.9 linear, 82.3 fine-tuned (iBOT, README)"),
    row(["ibot_base", "ibot", "vit_base"], (IBOT, "ibot"), APACHE, FEATURES, "77.1 k-NN, 79.5 linear, 84.0 fine-tuned (iBOT, README)"),
    row(["ibot_large", "ibot", "vit_large"], (IBOT, "ibot"), APACHE, FEATURES, "78.0 k-NN, 81.0 linear, 84.8 fine-tuned (iBOT, README)"),
    row(["dino_small", "dino", "vit_small"], (Hub("timm/vit_small_patch16_224.dino"), "timm"), APACHE, FEATURES, ""),
    row(["dino_base", "dino", "vit_base"], (Hub("timm/vit_base_patch16_224.dino"), "timm"), APACHE, FEATURES, ""),
    row(["dinov2_small", "dinov2", "vit_small"], (Hub("facebook/dinov2-small"), "hf_dinov2"), APACHE, FEATURES, ""),
    row(["dinov2_base", "dinov2", "vit_base"], (Hub("facebook/dinov2-base"), "hf_dinov2"), APACHE, FEATURES, ""),
    row(["dinov2_large", "dinov2", "vit_large"], (Hub("facebook/dinov2-large"), "hf_dinov2"), APACHE, FEATURES, ""),
    row(["saim_base", "saim", "vit_base"], (Page("https://github.com/qiy20/SAIM"), "saim"), UNKNOWN, (Imagenet, PATCHES), "83.9 fine-tuned, 62.5 linear, 800 epochs (SAIM, README)"),
    row(["semmae_base", "semmae", "vit_base"], (Page("https://github.com/ucasligang/SemMAE"), "mae"), UNKNOWN, (Imagenet, PATCHES), "84.4 fine-tuned with patches of 8 pixels, 800 epochs (SemMAE, README)"),
    row(["dbot_base", "dbot", "vit_base"], (DBOT, "dbot"), UNKNOWN, FEATURES, "84.5 fine-tuned (dBOT, README)"),
    row(["dbot_large", "dbot", "vit_large"], (DBOT, "dbot"), UNKNOWN, FEATURES, "86.6 fine-tuned (dBOT, README)"),
    row(["dbot_huge", "dbot", "vit_huge"], (DBOT, "dbot"), UNKNOWN, FEATURES, "87.4 fine-tuned (dBOT, README)"),
    row(["moco_v3_base", "moco_v3", "vit_base"], (Page("https://github.com/facebookresearch/moco-v3"), "moco_v3"), UNKNOWN, FEATURES, ""),
    row(["clip_base", "clip", "clip_vit_base_patch16"], (Hub("openai/clip-vit-base-patch16"), "hf_clip"), MIT, (Clip, OTHER), ""),
    row(["clip_large", "clip", "clip_vit_large_patch14"], (Hub("openai/clip-vit-large-patch14"), "hf_clip"), MIT, (Clip, OTHER), ""),
];
