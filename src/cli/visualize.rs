//! `mim visualize`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use crate::init::{InitFrom, read_weights};
use crate::{DataConfig, Pretrained, RunConfig, run_config, zoo};
use candle_core::Device;
use mim_core::data::{DataSource, Dataset, Loader, LoaderConfig, Split};
use mim_core::encoders::VitConfig;
use mim_core::weights::WeightMap;
use mim_core::{Error, Result, settings};
use mim_eval::{save_png, sheet};
use toml::{Table, Value};

use crate::backbone::choose;
use crate::cli::drawing::{self, Column};
use crate::cli::pretrain::picture;
use crate::cli::pretrain::probe::any_features;
use crate::cli::{device, folder, plot};

/// Settings of `mim visualize`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A run folder, or one of its checkpoints.
    #[arg(long, required_unless_present = "weights", conflicts_with = "weights")]
    checkpoint: Option<PathBuf>,
    /// A file of weights of a whole method, such as mae_visualize_vit_base.pth, hf:owner/name or zoo:NAME.
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Project whose names --weights have, such as hf_vit_mae [default: mae, mim's own].
    #[arg(long, value_name = "NAME", requires = "weights")]
    source: Option<String>,
    /// Method of --weights; its sizes are read from the file.
    #[arg(long, default_value = "mae", requires = "weights")]
    method: String,
    /// A setting of the method of --weights, such as norm_pix_loss=false or decoder.num_heads=8; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "weights")]
    set: Vec<String>,
    /// Images, as in `mim pretrain` [default: test images of the run].
    #[arg(long)]
    images: Option<DataSource>,
    /// What to draw.
    #[arg(long, value_enum, default_value_t = What::Reconstruction)]
    what: What,
    /// Output picture [default: reconstruction.png, masks.png, ...].
    #[arg(long)]
    output: Option<PathBuf>,
    /// Number of images to draw, spread over the data.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    count: u16,
    /// Seed of the masks.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Device.
    #[arg(long, default_value = "auto", help = device::HELP)]
    device: String,
}

/// What is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Original, masked and reconstructed images.
    Reconstruction,
    /// Images as a training step masks them.
    Masks,
    /// Images next to the histograms of oriented gradients that a training step predicts.
    Hog,
    /// The attention of the class token in the last block, head by head.
    Attention,
    /// The first three principal components of patch features as colours.
    Pca,
    /// The training images that are nearest in feature space.
    Neighbours,
    /// Learning rate and weight decay over the run, as SVG.
    Schedule,
}

impl What {
    fn file(self) -> &'static str {
        match self {
            Self::Reconstruction => "reconstruction.png",
            Self::Masks => "masks.png",
            Self::Hog => "hog.png",
            Self::Attention => "attention.png",
            Self::Pca => "pca.png",
            Self::Neighbours => "neighbours.png",
            Self::Schedule => "schedule.svg",
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let device = device::open(&args.device)?;
    let model = args.model(&device)?;
    let path = args
        .output
        .clone()
        .unwrap_or_else(|| args.what.file().into());
    folder::check_parent(&path)?;
    let own = &model.config.data;
    let data = match &args.images {
        Some(source) => &own.of(source.clone()),
        None => own,
    };
    match args.what {
        What::Reconstruction => {
            let images = data.open_for_pictures()?;
            let size = (usize::from(args.count), args.seed);
            picture::draw(&model.config, model.method.as_ref(), images, size, &path)?;
        }
        What::Schedule => {
            let images = data.open_source(Split::Train)?.len();
            plot::schedule(
                &model.config.train,
                model.method.batch_factor(),
                images,
                &path,
            )?;
        }
        _ => {
            let columns = args.columns(&model, data, &device)?;
            save_png(&sheet(&drawing::shown(columns, data)?)?, &path)?;
        }
    }
    println!("{}", path.display());
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// The columns of a sheet, for images spread over the data.
    fn columns(
        &self,
        model: &Pretrained,
        data: &DataConfig,
        device: &Device,
    ) -> Result<Vec<Column>> {
        let (method, eval) = (model.method.as_ref(), &model.config.eval);
        let images = drawing::spread(&data.open_for_pictures()?, usize::from(self.count))?;
        if matches!(self.what, What::Masks | What::Hog) {
            // The method's own views, since some methods need two.
            let loading = LoaderConfig {
                batch_size: images.len().max(1),
                workers: 0,
                ..LoaderConfig::default()
            };
            let loader = Loader::new(images, method.views(0), loading, self.seed)?;
            let batch = loader.epoch(0, 0)?.next().transpose()?.ok_or_else(|| {
                Error::unsupported("a picture", "there is no image to draw", "give images")
            })?;
            let batch = batch.to_device(device)?;
            if self.what == What::Hog {
                return drawing::hog(method, &batch, self.seed);
            }
            let view = batch.view(0)?.unit()?;
            return Ok(vec![
                ("view".to_owned(), view),
                drawing::masked(method, &batch, self.seed)?,
            ]);
        }
        let (_, encoder) = choose(method, None)?;
        let input = method.input();
        let batch = |images: &Arc<dyn Dataset>| drawing::one_batch(images, input, eval);
        let own = batch(&images)?;
        let normed = own.to_device(device)?.view(0)?.normalized(&input.norm)?;
        match self.what {
            What::Attention => drawing::attention(encoder, &own, &normed),
            What::Pca => drawing::pca(encoder, &own, &normed),
            _ => {
                let features = |images| any_features(encoder, input, images, (eval, device));
                let draw = |images: &Arc<dyn Dataset>| batch(images)?.view(0)?.unit();
                let train = data.open_source(Split::Train)?;
                drawing::neighbours(features, (&train, &images), draw)
            }
        }
    }
}

impl Args {
    fn model(&self, device: &Device) -> Result<Pretrained> {
        let Some(path) = &self.weights else {
            return Pretrained::open(self.checkpoint.as_deref().unwrap_or(Path::new("")), device);
        };
        let (path, of_zoo) = match zoo::find(path)? {
            Some((entry, path)) => (path, Some(entry.source.to_owned())),
            None => (path.clone(), None),
        };
        let file = InitFrom {
            path,
            source: self.source.clone().or(of_zoo),
            ..InitFrom::default()
        };
        let (weights, _) = read_weights(&file.path, file.source.as_deref(), None)?;
        let mut table = sizes(&weights)?;
        table.insert("method".to_owned(), self.method.clone().into());
        for setting in &self.set {
            settings::set(&mut table, setting)?;
        }
        run_config::measure(&mut table)?;
        let (model, line) = Pretrained::of_file(RunConfig::from_table(table)?, &file, device)?;
        eprintln!("{line}");
        Ok(model)
    }
}

/// Sizes of encoder and decoder, as far as the file shows them.
fn sizes(weights: &WeightMap) -> Result<Table> {
    let mut table = Table::new();
    if let Ok(vit) = VitConfig::of_weights(weights) {
        table.insert("encoder".to_owned(), settings::to_table(&vit)?.into());
    }
    let first = |name: &str| weights.get(name).and_then(|tensor| tensor.dims().first());
    if let Some(&width) = first("decoder_embed.weight") {
        let is_there = |at: &usize| weights.get(&format!("decoder_blocks.{at}.norm1.weight"));
        let depth = (0..).take_while(|at| is_there(at).is_some()).count();
        let size = |number: usize| Value::Integer(i64::try_from(number).unwrap_or(i64::MAX));
        let decoder = [("embed_dim", size(width)), ("depth", size(depth))];
        let decoder = decoder.map(|(key, value)| (key.to_owned(), value));
        table.insert("decoder".to_owned(), Table::from_iter(decoder).into());
    }
    Ok(table)
}
