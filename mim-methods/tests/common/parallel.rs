//! What one process of a group computes of the first step of a method.

use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor};
use mim_core::comm::{Communicator, Single, mean};
use mim_core::data::{Loader, LoaderConfig};
use mim_core::optim::Gradients;
use mim_core::params::Kind;
use mim_core::{Batch, Mask, Method, StepContext, TraceSink, View};

use crate::common::{Tiny, data};

/// Images of all processes together.
pub(crate) const IMAGES: usize = 8;
/// Of the run.
const SEED: u64 = 5;

/// Numbers of some of the [`IMAGES`] images, in the order of a batch.
type Images = Vec<usize>;
/// Losses, gradients and buffers by name.
type Values = Vec<(String, Tensor)>;

/// The method at its tiny size, without stochastic depth and what else is drawn by the process.
pub(crate) fn build(tiny: &Tiny, device: &Device) -> Box<dyn Method> {
    let mut settings = tiny.settings.clone();
    settings.extend(tiny.shared.settings.clone());
    let mut settings = tiny.entry().resolve(settings).unwrap();
    without_drop_path(&mut settings);
    tiny.entry().build(settings, device, SEED).unwrap()
}

fn without_drop_path(settings: &mut toml::Table) {
    for (name, value) in settings {
        match value {
            toml::Value::Table(inner) => without_drop_path(inner),
            rate if name == "drop_path_rate" => *rate = 0f64.into(),
            _ => {}
        }
    }
}

/// Loss, gradients, and buffers such as centres, running statistics, counts of codes and queues, after a step on this
/// process' share of [`IMAGES`] images, by name.
pub(crate) fn first_step(tiny: &Tiny, device: &Device, comm: &Arc<dyn Communicator>) -> Values {
    let (method, own) = (build(tiny, device), IMAGES / comm.world());
    let batch = share(method.as_ref(), comm.as_ref());
    let images = (comm.rank() * own..(comm.rank() + 1) * own).collect();
    step_on(method, tiny, (batch, images), comm)
}

/// This process' share of [`IMAGES`] images.
pub(crate) fn share(method: &dyn Method, comm: &dyn Communicator) -> Batch {
    let loader = loader(method, IMAGES / comm.world()).sharded(comm.rank(), comm.world());
    first(&loader.unwrap())
}

fn first(loader: &Loader) -> Batch {
    loader.epoch(0, 0).unwrap().next().unwrap().unwrap()
}

/// What one process gives for all images where only rounding differs: for weights whose last digits are others, and
/// for the images from last to first.
pub(crate) fn rounded_steps(tiny: &Tiny, device: &Device) -> Vec<Values> {
    let alone: Arc<dyn Communicator> = Arc::new(Single);
    let nudged = build(tiny, device);
    nudge(nudged.as_ref());
    let batch = share(nudged.as_ref(), alone.as_ref());
    let images = (0..IMAGES).collect();
    let mut rounded = vec![step_on(nudged, tiny, (batch, images), &alone)];
    if !tiny.shared.ordered {
        rounded.push(backwards(tiny, device));
    }
    rounded
}

fn backwards(tiny: &Tiny, device: &Device) -> Values {
    let method = build(tiny, device);
    let mut batch = first(&loader(method.as_ref(), IMAGES));
    let reversed = |xs: &Tensor| xs.flip(&[0]).unwrap();
    for view in &mut batch.views {
        let crops = view.crops.iter().rev().cloned().collect();
        *view = match view.is_of_points() {
            true => View::of_points(reversed(view.points().unwrap())).unwrap(),
            false => View::new(reversed(view.pixels()), crops).unwrap(),
        };
    }
    batch.labels = batch.labels.as_ref().map(reversed);
    batch.indices.reverse();
    let alone: Arc<dyn Communicator> = Arc::new(Single);
    step_on(method, tiny, (batch, (0..IMAGES).rev().collect()), &alone)
}

/// Moves weights by their last digit, up and down in turns.
fn nudge(method: &dyn Method) {
    for (_, store) in method.stores() {
        for (_, weight) in store.parameters() {
            let signs = (0..weight.elem_count()).map(|at| if at % 2 == 0 { 1. } else { -1. });
            let factors: Vec<f32> = signs.map(|sign| 1. + sign * f32::EPSILON).collect();
            let factors = Tensor::from_vec(factors, weight.shape(), weight.device()).unwrap();
            weight
                .set(&(weight.as_tensor() * factors).unwrap())
                .unwrap();
        }
    }
}

fn step_on(
    mut method: Box<dyn Method>,
    tiny: &Tiny,
    (batch, images): (Batch, Images),
    comm: &Arc<dyn Communicator>,
) -> Values {
    tell_images_apart(method.as_ref());
    if let Some(mask) = mask(tiny, &images) {
        method.override_mask(mask).unwrap();
    }
    let step = StepContext {
        comm: comm.clone(),
        training: tiny.shared.training,
        ..StepContext::new(SEED)
    };
    method.before_step(&step).unwrap();
    let batch = batch.to_device(method.stores()[0].1.device()).unwrap();
    let loss = method.forward(&batch, &step).unwrap().total().unwrap();
    let mut gradients = Gradients::new(method.stores()[0].1.trainable());
    // The first time shows when gradients are complete; the second time they go while the pass runs.
    for _ in 0..2 {
        gradients.clear();
        gradients.backward_sending(&loss, comm).unwrap();
        gradients.average(comm.as_ref()).unwrap();
    }
    let read = |values: &Tensor| values.copy().unwrap().to_device(&Device::Cpu).unwrap();
    let mut found = Vec::new();
    for (name, _, gradient) in gradients.iter() {
        found.push((format!("gradient of {name}"), read(gradient.unwrap())));
    }
    for (owner, store) in method.stores() {
        for (name, kind) in store.names() {
            if kind == Kind::Buffer {
                let value = read(&store.var(&name).unwrap());
                found.push((format!("{owner}: {name}"), value));
            }
        }
    }
    // Behind the gradients, which must be there without any further call.
    let loss = f64::from(loss.to_scalar::<f32>().unwrap());
    let loss = mean(comm.as_ref(), &[loss]).unwrap();
    found.push(("loss".to_owned(), Tensor::new(loss, &Device::Cpu).unwrap()));
    found
}

/// At initial weights all images look nearly the same to an encoder. Batch norms take away what is the same, and
/// with it all digits but the last ones: what is left would differ in more than rounding.
fn tell_images_apart(method: &dyn Method) {
    for (_, store) in method.stores() {
        if let Some(weight) = store.var("patch_embed.proj.weight") {
            let larger = (weight.as_tensor() * 8.).unwrap();
            weight.set(&larger).unwrap();
        }
    }
}

/// Batches of the data at hand.
pub(crate) fn loader(method: &dyn Method, batch_size: usize) -> Loader {
    let loading = LoaderConfig {
        batch_size,
        workers: 0,
        ..LoaderConfig::default()
    };
    Loader::new(data(method), method.views(0), loading, SEED).unwrap()
}

/// Keeps the mask of a step.
#[derive(Default)]
struct MaskSink(Mutex<Option<Mask>>);

impl TraceSink for MaskSink {
    fn record(&self, _name: &str, _value: &Tensor) -> mim_core::Result<()> {
        Ok(())
    }

    fn mask(&self, mask: &Mask) -> mim_core::Result<()> {
        *self.0.lock().unwrap() = Some(mask.clone());
        Ok(())
    }
}

/// The rows of these images in the mask that one process draws for all; none where the method draws no masks.
///
/// Draws are keyed by rank: several processes would hide other patches.
pub(crate) fn mask(tiny: &Tiny, images: &[usize]) -> Option<Mask> {
    let method = build(tiny, &Device::Cpu);
    let sink = Arc::new(MaskSink::default());
    let step = StepContext {
        trace: Some(sink.clone()),
        training: tiny.shared.training,
        ..StepContext::new(SEED)
    };
    let batch = first(&loader(method.as_ref(), IMAGES));
    method.forward(&batch, &step).unwrap();
    let whole = sink.0.lock().unwrap().take()?;
    let copies = 0..whole.rows() / IMAGES;
    let rows: Vec<usize> = copies
        .flat_map(|copy| images.iter().map(move |image| copy * IMAGES + image))
        .collect();
    let order = rows
        .iter()
        .flat_map(|row| [whole.visible(*row), whole.hidden(*row)]);
    let keep = rows.iter().map(|row| whole.visible(*row).len()).collect();
    Some(Mask::overlapping(whole.grid(), order.flatten().copied().collect(), keep).unwrap())
}

/// What differs by more than rounding, a line each.
///
/// All values may differ from those wanted by at most 1e-6 of the largest one of their tensor (or the method's own bound)
/// or, where that is more, four times what rounding makes of them in one process (`rounded`): batch norms take away what
/// images have in common, and parts of the gradients before them cancel but for rounding; and the products of smaller
/// batches may be summed in another order. So may all gradients together. A tensor far below the largest of all may
/// differ by the last digits of that one.
pub(crate) fn differences(
    tiny: &Tiny,
    found: &[(String, Tensor)],
    wanted: &[(String, Tensor)],
    rounded: &[Values],
) -> Vec<String> {
    let (method, bound) = (&tiny.file, tiny.shared.rounding);
    let names = |all: &[(String, Tensor)]| -> Vec<String> {
        all.iter().map(|(name, _)| name.clone()).collect()
    };
    assert_eq!(names(found), names(wanted), "{method}");
    let exact = |xs: &Tensor| xs.to_dtype(DType::F64).unwrap();
    let largest = |xs: &Tensor| -> f64 {
        let xs = exact(xs).abs().unwrap().flatten_all().unwrap();
        xs.max(0).unwrap().to_scalar().unwrap()
    };
    let largest_of_all = wanted.iter().map(|(_, xs)| largest(xs)).fold(0., f64::max);
    let mut wrong = Vec::new();
    for (at, ((name, own), (_, wanted))) in found.iter().zip(wanted).enumerate() {
        let off = |xs: &Tensor| largest(&(exact(xs) - exact(wanted)).unwrap());
        let rounded = rounded.iter().map(|found| off(&found[at].1));
        let (rounding, scale) = (rounded.fold(0., f64::max), largest(wanted));
        let off = off(own);
        // So much is no rounding, and would hide anything.
        let too_much = rounding > 10. * bound * largest_of_all;
        let last_digits = 1e-6 * largest_of_all;
        if too_much || off > (bound * scale).max(4. * rounding).max(last_digits) {
            wrong.push(format!(
                "{method}: {name}: off by {off:.2e} of {scale:.2e}, {largest_of_all:.2e} in all; rounding makes {rounding:.2e}"
            ));
        }
    }
    let rounding = rounded.iter().map(|found| apart(found, wanted));
    let (off, rounding) = (apart(found, wanted), rounding.fold(0., f64::max));
    if off > (4. * rounding).max(bound) {
        wrong.push(format!(
            "{method}: gradients differ by {off:.1e}, rounding makes {rounding:.1e}"
        ));
    }
    wrong
}

/// The length of the difference of all gradients together, as a share of theirs.
fn apart(found: &[(String, Tensor)], wanted: &[(String, Tensor)]) -> f64 {
    let squares = |xs: &Tensor| -> f64 {
        let squares = xs.to_dtype(DType::F64).unwrap().sqr().unwrap();
        squares.sum_all().unwrap().to_scalar().unwrap()
    };
    let (mut off, mut whole) = (0., 0.);
    for ((name, own), (_, wanted)) in found.iter().zip(wanted) {
        if name.starts_with("gradient of ") {
            off += squares(&(own - wanted).unwrap());
            whole += squares(wanted);
        }
    }
    if off == 0. { 0. } else { (off / whole).sqrt() }
}
