//! `mim parity`.

mod evaluation;

use std::path::PathBuf;
use std::process::ExitCode;

use mim_core::Result;
use mim_core::ops::Precision;
use mim_methods::parity::{self, Overrides, Report, Verdict};
use serde_json::{Value, json};

use crate::cli::device;

/// Settings of `mim parity`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Golden cases, or folders to search.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Do not fail on cases of unknown methods, parts and protocols; they are still listed and counted.
    #[arg(long)]
    skip_unsupported: bool,
    /// Print one JSON object per case.
    #[arg(long)]
    json: bool,
    /// Device.
    #[arg(long, default_value = "auto", help = device::HELP)]
    device: String,
    /// Precision of matrix products: f32 or bf16. In bf16 only losses are compared, to 2e-2 unless --rtol is given.
    #[arg(long, default_value = "f32")]
    precision: Precision,
    /// Relative tolerance of outputs and gradients [default: that of the case].
    #[arg(long)]
    rtol: Option<f64>,
    /// Absolute tolerance of outputs and gradients [default: that of the case].
    #[arg(long)]
    atol: Option<f64>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let device = device::open(&args.device)?;
    args.precision.check(&device)?;
    let losses_only = args.precision == Precision::Bf16;
    let overrides = Overrides {
        rtol: args.rtol.or(losses_only.then_some(2e-2)),
        atol: args.atol,
        losses_only,
        precision: args.precision,
    };
    let mut cases = Vec::new();
    for path in &args.paths {
        cases.extend(parity::find(path)?);
    }
    let mut counts = [0usize; 3];
    for case in &cases {
        let report = parity::run_with(case, &device, overrides, evaluation::PROTOCOLS);
        counts[report.verdict as usize] += 1;
        match args.json {
            true => println!("{}", to_json(&report)),
            false => println!("{report}"),
        }
    }
    let [passed, failed, unsupported] = counts;
    match args.json {
        true => println!(
            "{}",
            json!({ "passed": passed, "failed": failed, "unsupported": unsupported })
        ),
        false => println!("{passed} passed, {failed} failed, {unsupported} unsupported"),
    }
    let passes = failed == 0 && passed > 0 && (unsupported == 0 || args.skip_unsupported);
    Ok(if passes {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn to_json(report: &Report) -> Value {
    let verdict = match report.verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "fail",
        Verdict::Unsupported => "unsupported",
    };
    json!({
        "case": report.case,
        "verdict": verdict,
        "forward": report.forward.error,
        "grad": report.grad.error,
        "step": report.step.error,
        "reason": report.reason,
    })
}
