//! The table of methods: a new method is one entry here.

use super::{Entry, build, resolve};
use crate::parity;
use crate::{
    AttMaskConfig, BootMaeConfig, CmaeConfig, IbotConfig, MaeConfig, SimConfig, SimMimConfig,
};

const VITS: &[&str] = &["vit_tiny", "vit_small", "vit_base", "vit_large", "vit_huge"];

macro_rules! recipes {
    ($($name:literal),*) => {
        &[$(($name, include_str!(concat!("../../recipes/", $name, ".toml")))),*]
    };
}

/// Every method.
pub const METHODS: &[Entry] = &[
    Entry {
        name: "mae",
        title: "Masked Autoencoders Are Scalable Vision Learners",
        paper: "He et al., CVPR 2022, arXiv 2111.06377",
        reference: "facebookresearch/mae @ efb2a80",
        archs: VITS,
        status: "exact: forward, loss, gradients, step",
        recipes: recipes!("mae_32px", "mae_base", "mae_32px_transformers"),
        resolve: resolve::<MaeConfig>,
        build: build::<MaeConfig>,
        parity: parity::mae::setup,
    },
    Entry {
        name: "simmim",
        title: "SimMIM: A Simple Framework for Masked Image Modeling",
        paper: "Xie et al., CVPR 2022, arXiv 2111.09886",
        reference: "microsoft/SimMIM @ d3e29bc",
        archs: &[
            "vit_tiny",
            "vit_small",
            "vit_base",
            "swin_tiny",
            "swin_small",
            "swin_base",
            "swin_large",
        ],
        status: "exact with ViT and Swin: forward, loss, gradients, step",
        recipes: recipes!(
            "simmim_32px",
            "simmim_base",
            "simmim_swin_32px",
            "simmim_swin_base",
            "simmim_swin_base_100ep"
        ),
        resolve: resolve::<SimMimConfig>,
        build: build::<SimMimConfig>,
        parity: parity::simmim::setup,
    },
    Entry {
        name: "bootmae",
        title: "Bootstrapped Masked Autoencoders for Vision BERT Pretraining",
        paper: "Dong et al., ECCV 2022, arXiv 2207.07116",
        reference: "LightDXY/BootMAE @ d604b18",
        archs: &["vit_tiny", "vit_small", "vit_base", "vit_large"],
        status: "exact: forward, losses, gradients, step, teacher",
        recipes: recipes!("bootmae_32px", "bootmae_base", "bootmae_large"),
        resolve: resolve::<BootMaeConfig>,
        build: build::<BootMaeConfig>,
        parity: parity::bootmae::setup,
    },
    Entry {
        name: "sim",
        title: "Siamese Image Modeling for Self-Supervised Vision Representation Learning",
        paper: "Tao et al., CVPR 2023, arXiv 2206.01204",
        reference: "OpenGVLab/Siamese-Image-Modeling @ bbdec30",
        archs: VITS,
        status: "exact: forward, loss, gradients, step, teacher",
        recipes: recipes!("sim_32px", "sim_base"),
        resolve: resolve::<SimConfig>,
        build: build::<SimConfig>,
        parity: parity::sim::setup,
    },
    Entry {
        name: "cmae",
        title: "Contrastive Masked Autoencoders are Stronger Vision Learners",
        paper: "Huang et al., TPAMI 2023, arXiv 2207.13532",
        reference: "ZhichengHuang/CMAE @ e786a52",
        archs: &["vit_tiny", "vit_small", "vit_base", "vit_large"],
        status: "exact: forward, losses, gradients, step, momentum networks",
        recipes: recipes!("cmae_32px", "cmae_base"),
        resolve: resolve::<CmaeConfig>,
        build: build::<CmaeConfig>,
        parity: parity::cmae::setup,
    },
    Entry {
        name: "ibot",
        title: "iBOT: Image BERT Pre-Training with Online Tokenizer",
        paper: "Zhou et al., ICLR 2022, arXiv 2111.07832",
        reference: "bytedance/ibot @ da316d8",
        archs: &[
            "vit_tiny",
            "vit_small",
            "vit_base",
            "vit_large",
            "swin_tiny",
            "swin_small",
            "swin_base",
            "swin_large",
        ],
        status: "exact with ViT and Swin: forward, losses, centres, gradients, step, teacher",
        recipes: recipes!("ibot_32px", "ibot_small", "ibot_base", "ibot_swin_tiny"),
        resolve: resolve::<IbotConfig>,
        build: build::<IbotConfig>,
        parity: parity::ibot::setup,
    },
    Entry {
        name: "attmask",
        title: "What to Hide from Your Students: Attention-Guided Masked Image Modeling",
        paper: "Kakogeorgiou et al., ECCV 2022, arXiv 2203.12719",
        reference: "gkakogeorgiou/attmask @ 9f62061",
        archs: &["vit_tiny", "vit_small", "vit_base", "vit_large"],
        status: "exact: masks, forward, losses, centres, gradients, step, teacher",
        recipes: recipes!("attmask_32px", "attmask_small"),
        resolve: resolve::<AttMaskConfig>,
        build: build::<AttMaskConfig>,
        parity: parity::ibot::setup_attmask,
    },
];
