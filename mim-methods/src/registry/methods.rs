//! The table of methods: a new method is one entry here.

use super::{Entry, build, resolve};
use crate::parity;
use crate::{
    BootMaeConfig, CmaeConfig, ConvMaeConfig, CustomConfig, DmjdConfig, FastMimConfig, MaeConfig,
    MaskFeatConfig, MilanConfig, SimConfig, SimMimConfig,
};

const HYBRIDS: &[&str] = &[
    "convmae_tiny",
    "convmae_small",
    "convmae_base",
    "convmae_large",
];

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
        name: "custom",
        title: "Any parts joined by a config",
        paper: "no paper",
        reference: "none",
        archs: &[],
        status: "its parts are those of the other methods",
        recipes: recipes!("custom_32px"),
        resolve: resolve::<CustomConfig>,
        build: build::<CustomConfig>,
        parity: parity::none,
    },
    Entry {
        name: "milan",
        title: "MILAN: Masked Image Pretraining on Language Assisted Representation",
        paper: "Hou et al., 2022, arXiv 2208.06049",
        reference: "zejiangh/MILAN @ 7dcfe0f",
        archs: VITS,
        status: "exact: forward, losses, gradients, step, CLIP's features and attention",
        recipes: recipes!("milan_32px", "milan_base"),
        resolve: resolve::<MilanConfig>,
        build: build::<MilanConfig>,
        parity: parity::milan::setup,
    },
    Entry {
        name: "fastmim",
        title: "FastMIM: Expediting Masked Image Modeling Pre-training for Vision",
        paper: "Guo et al., 2022, arXiv 2212.06593",
        reference: "ggjy/FastMIM.pytorch @ d4eea0d",
        archs: &[
            "vit_tiny",
            "vit_small",
            "vit_base",
            "vit_large",
            "swin_tiny",
            "swin_small",
            "swin_base",
            "swin_large",
            "pvt_v2_b0",
            "pvt_v2_b1",
            "pvt_v2_b2",
            "pvt_v2_b3",
            "pvt_v2_b4",
            "pvt_v2_b5",
        ],
        status: "exact with ViT, Swin and PVTv2: forward, loss, gradients, step; growing images (FastMIM-P) by the paper's text",
        recipes: recipes!(
            "fastmim_32px",
            "fastmim_base",
            "fastmim_swin_base",
            "fastmim_pvtv2_b2"
        ),
        resolve: resolve::<FastMimConfig>,
        build: build::<FastMimConfig>,
        parity: parity::fastmim::setup,
    },
    Entry {
        name: "maskfeat",
        title: "Masked Feature Prediction for Self-Supervised Visual Pre-Training",
        paper: "Wei et al., CVPR 2022, arXiv 2112.09133",
        reference: "open-mmlab/mmpretrain @ ee7f2e8",
        archs: VITS,
        status: "exact: forward, loss, gradients",
        recipes: recipes!("maskfeat_32px", "maskfeat_base"),
        resolve: resolve::<MaskFeatConfig>,
        build: build::<MaskFeatConfig>,
        parity: parity::maskfeat::setup,
    },
    Entry {
        name: "convmae",
        title: "MCMAE: Masked Convolution Meets Masked Autoencoders",
        paper: "Gao et al., NeurIPS 2022, arXiv 2205.03892",
        reference: "Alpha-VL/ConvMAE @ 4c97b4c",
        archs: HYBRIDS,
        status: "exact: forward, loss, gradients",
        recipes: recipes!("convmae_32px", "convmae_base"),
        resolve: resolve::<ConvMaeConfig>,
        build: build::<ConvMaeConfig>,
        parity: parity::convmae::setup,
    },
    Entry {
        name: "dmjd",
        title: "Disjoint Masking with Joint Distillation for Efficient Masked Image Modeling",
        paper: "Ma et al., TMM 2023, arXiv 2301.00230",
        reference: "mx-mark/DMJD @ 881b21d",
        archs: HYBRIDS,
        status: "exact in both orders of visible targets: forward, losses, gradients, step",
        recipes: recipes!("dmjd_32px", "dmjd_base", "dmjd_large"),
        resolve: resolve::<DmjdConfig>,
        build: build::<DmjdConfig>,
        parity: parity::dmjd::setup,
    },
];
