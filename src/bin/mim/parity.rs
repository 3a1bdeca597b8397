//! `mim parity`.

use std::path::PathBuf;
use std::process::ExitCode;

use mim_core::{Error, Result};
use mim_methods::parity::{self, Overrides, Report, Verdict};
use serde_json::{Value, json};

use crate::device;

/// Settings of `mim parity`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Golden cases, or folders that are searched through.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Print one JSON object a case.
    #[arg(long)]
    json: bool,
    /// Where to run.
    #[arg(long, default_value = "auto", help = device::HELP)]
    device: String,
    /// Type of the computation: only f32 so far.
    #[arg(long, default_value = "f32")]
    precision: String,
    /// Relative tolerance of outputs and gradients, in place of the case's.
    #[arg(long)]
    rtol: Option<f64>,
    /// Absolute tolerance of outputs and gradients, in place of the case's.
    #[arg(long)]
    atol: Option<f64>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.precision != "f32" {
        let (why, fix) = ("cases run in f32 so far", "use --precision f32");
        return Err(Error::config(
            "command line",
            "--precision",
            &args.precision,
            why,
            fix,
        ));
    }
    let device = device::open(&args.device)?;
    let overrides = Overrides {
        rtol: args.rtol,
        atol: args.atol,
    };
    let mut cases = Vec::new();
    for path in &args.paths {
        cases.extend(parity::find(path)?);
    }
    let mut counts = [0usize; 3];
    for case in &cases {
        let report = parity::run(case, &device, overrides);
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
    Ok(if passed == cases.len() {
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
