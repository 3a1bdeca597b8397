//! `mim visualize`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::init::{InitFrom, read_weights};
use crate::{Pretrained, RunConfig, run_config, zoo};
use candle_core::Device;
use mim_core::data::DataSource;
use mim_core::encoders::VitConfig;
use mim_core::weights::WeightMap;
use mim_core::{Result, settings};
use toml::{Table, Value};

use crate::cli::device;
use crate::cli::pretrain::picture;

/// Settings of `mim visualize`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A run folder, or one of its checkpoints.
    #[arg(long, required_unless_present = "weights", conflicts_with = "weights")]
    checkpoint: Option<PathBuf>,
    /// A file of weights of a whole method, such as mae_visualize_vit_base.pth, hf:owner/name or zoo:NAME.
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Whose names --weights have, such as hf_vit_mae [default: mae, mim's own].
    #[arg(long, value_name = "NAME", requires = "weights")]
    source: Option<String>,
    /// The method of --weights; its sizes are read from the file.
    #[arg(long, default_value = "mae", requires = "weights")]
    method: String,
    /// A setting of the method of --weights, such as norm_pix_loss=false or decoder.num_heads=8; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "weights")]
    set: Vec<String>,
    /// Images, as in `mim pretrain`; test images of the run by default.
    #[arg(long)]
    images: Option<DataSource>,
    /// The picture to write.
    #[arg(long, default_value = "reconstruction.png")]
    output: PathBuf,
    /// Images to draw, spread over all of them.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    count: u16,
    /// Seed of the masks.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where to run.
    #[arg(long, default_value = "auto", help = device::HELP)]
    device: String,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let device = device::open(&args.device)?;
    let model = args.model(&device)?;
    let source = args.images.as_ref().unwrap_or(&model.config.data.source);
    let images = picture::images(source)?;
    let size = (usize::from(args.count), args.seed);
    let method = model.method.as_ref();
    picture::draw(&model.config, method, images, size, &args.output)?;
    println!("{}", args.output.display());
    Ok(ExitCode::SUCCESS)
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
        run_config::measure_norm(&mut table)?;
        let (model, line) = Pretrained::of_file(RunConfig::from_table(table)?, &file, device)?;
        eprintln!("{line}");
        Ok(model)
    }
}

/// Sizes of encoder and decoder, as far as a file tells; nothing of what it does not tell.
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
