//! From an image file to the network's input: decoding, each augmentation, whole plans.
//!
//! `cargo bench --bench data`; a name filters, e.g. `-- augment`. One thread; the throughput is in images per second.
//! `photo` is 500 x 375 pixels, `view` 224 x 224.

#![expect(
    clippy::expect_used,
    reason = "a benchmark has no caller to return an error to"
)]

mod common;

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder};
use mim_core::augment::{
    Augment, ColorJitter, CropBox, GaussianBlur, Grayscale, HorizontalFlip, ImageOp, Interpolation,
    Sample, ViewPlan, adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation,
    gaussian_blur, grayscale, resize, solarize,
};
use mim_core::data::decode;
use mim_core::rng::stream;
use mim_core::{Norm, Purpose, View};

const PHOTO: (usize, usize) = (375, 500);
const VIEW: (usize, usize) = (224, 224);

/// Slopes, edges and some noise, so that neither decoding nor branch prediction is unusually easy.
fn picture((height, width): (usize, usize)) -> Sample {
    let mut noise = 1u32;
    let value = |(row, col, channel): (usize, usize, usize)| {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let slope = (row * (channel + 1) + col * (3 - channel)) / 4;
        let edge = if (row / 40 + col / 50) % 2 == 0 {
            90
        } else {
            0
        };
        let value = (slope + edge) % 232 + (noise >> 24) as usize % 24;
        u8::try_from(value).expect("at most 255")
    };
    let places = (0..height * width * 3).map(|at| (at / 3 / width, at / 3 % width, at % 3));
    Sample::new(places.map(value).collect(), (height, width), 3).expect("bytes for the size")
}

/// Writes `picture` to a file in the format of its name.
fn save(path: &Path, picture: &Sample) -> PathBuf {
    let (height, width) = picture.size();
    let [width, height] = [width, height].map(|side| u32::try_from(side).expect("small"));
    let file = std::fs::File::create(path).expect("a folder for temporary files");
    let rgb = ExtendedColorType::Rgb8;
    let written = if path.extension().is_some_and(|kind| kind == "png") {
        image::codecs::png::PngEncoder::new(file).write_image(picture.pixels(), width, height, rgb)
    } else {
        JpegEncoder::new_with_quality(file, 90).write_image(picture.pixels(), width, height, rgb)
    };
    written.expect("an image of a usual size");
    path.to_owned()
}

fn files(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let photo = picture(PHOTO);
    let mut group = c.benchmark_group("data/decode");
    group.throughput(Throughput::Elements(1));
    for kind in ["jpg", "png"] {
        let path = save(&folder.path().join("photo").with_extension(kind), &photo);
        group.bench_function(format!("{kind}/photo"), |b| {
            b.iter(|| decode(&path).expect("written above"));
        });
    }
}

fn augmentations(c: &mut Criterion) {
    let (photo, view) = (picture(PHOTO), picture(VIEW));
    let mut group = c.benchmark_group("data/augment");
    group.throughput(Throughput::Elements(1));
    let mut time = |id: &str, sample: &Sample, run: &dyn Fn(Sample) -> Sample| {
        group.bench_function(id, |b| {
            b.iter_batched(|| sample.clone(), run, BatchSize::LargeInput);
        });
    };
    let crop = CropBox {
        top: 20,
        left: 60,
        height: 320,
        width: 380,
    };
    for (name, filter) in [
        ("resize_bicubic/photo", Interpolation::Bicubic),
        ("resize_bilinear/photo", Interpolation::Bilinear),
    ] {
        time(name, &photo, &|xs| {
            resize(xs, crop, VIEW, filter).expect("the box lies inside")
        });
    }
    let flip = HorizontalFlip { p: 1. };
    time("flip/view", &view, &|xs| {
        let mut rng = stream(0, Purpose::Augment, [0, 0]);
        flip.apply(xs, &mut rng).expect("flips any image")
    });
    time("brightness/view", &view, &|xs| adjust_brightness(xs, 1.3));
    time("contrast/view", &view, &|xs| adjust_contrast(xs, 0.7));
    time("saturation/view", &view, &|xs| adjust_saturation(xs, 1.2));
    time("hue/view", &view, &|xs| adjust_hue(xs, 0.07));
    time("grayscale/view", &view, &grayscale);
    time("solarize/view", &view, &|xs| solarize(xs, 128));
    time("gaussian_blur/view", &view, &|xs| gaussian_blur(xs, 1.));
}

fn tensors(c: &mut Criterion) {
    let view = picture(VIEW);
    let mut group = c.benchmark_group("data/tensor");
    group.throughput(Throughput::Elements(1));
    let mut planes = vec![];
    group.bench_function("planes/view", |b| {
        b.iter(|| {
            planes.clear();
            view.append_planes(&mut planes);
        });
    });
    let pixels = Tensor::new(planes, &Device::Cpu).and_then(|p| p.reshape((1, 3, VIEW.0, VIEW.1)));
    let view = View::new(pixels.expect("as many bytes"), vec![]).expect("bytes of four axes");
    group.bench_function("normalize/fused", |b| {
        b.iter(|| view.normalized(&Norm::imagenet()).expect("three channels"));
    });
    group.bench_function("normalize/plain", |b| {
        b.iter(|| {
            Norm::imagenet()
                .apply(&view.unit().expect("bytes"))
                .expect("three channels")
        });
    });
}

fn plans(c: &mut Criterion) {
    let photo = picture(PHOTO);
    let mut colours = ViewPlan::mae(VIEW);
    colours.shared.extend([
        Augment::ColorJitter(ColorJitter::default()),
        Augment::Grayscale(Grayscale::default()),
        Augment::GaussianBlur(GaussianBlur::default()),
    ]);
    let mut group = c.benchmark_group("data/plan");
    group.throughput(Throughput::Elements(1));
    for (name, plan) in [("mae", ViewPlan::mae(VIEW)), ("simclr", colours)] {
        let mut draw = 0;
        group.bench_function(name, |b| {
            b.iter_batched(
                || photo.clone(),
                |sample| {
                    draw += 1;
                    let mut rng = stream(0, Purpose::Augment, [0, draw]);
                    plan.apply(sample, &mut rng).expect("fits any image")
                },
                BatchSize::LargeInput,
            );
        });
    }
}

criterion_group! {
    name = benches;
    config = common::brief().sample_size(20);
    targets = files, augmentations, tensors, plans
}
criterion_main!(benches);
