//! `mim sweep`: many runs from one file.

use std::collections::BTreeMap;
use std::fs;
use std::iter;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use mim_core::{Error, Result, files, settings};
use serde::{Deserialize, Serialize};
use toml::Value;

use crate::compare::{Comparison, Table};
use crate::report;

/// Settings of `mim sweep`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// A TOML file: what varies, and what is the same in all runs.
    file: PathBuf,
    /// Folder of all runs [default: sweeps/<name of the file>]. An interrupted sweep continues there.
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// Print the command of each run and exit.
    #[arg(long)]
    dry_run: bool,
    /// Device of each run.
    #[arg(long, default_value = "auto")]
    device: String,
}

const EXAMPLE: &str = "Example:
  mim sweep small.toml --dry-run    print the command of each run

The file:
  recipes = [
    \"mae_32px\",                            # a recipe, a file, or a method
    { recipe = \"beit_32px\", set = { target.checkpoint = \"{sweep}/vqkd_32px-seed_{seed}\" } },
  ]
  seeds = [0, 1, 2]
  [set]                                    # the same in all runs
  data.source = \"idx:fashion-mnist\"
  train.epochs = 20
  [vary]                                   # every combination
  \"encoder.depth\" = [4, 8]";

/// A sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sweep {
    /// Recipes or files of settings.
    recipes: Vec<Entry>,
    /// Seeds, one run each.
    #[serde(default = "one_seed")]
    seeds: Vec<u64>,
    /// Settings of all runs.
    #[serde(default)]
    set: toml::Table,
    /// Values of settings, by dotted key.
    #[serde(default)]
    vary: BTreeMap<String, Vec<Value>>,
}

/// A recipe, alone or with settings of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Entry {
    Recipe(String),
    With(With),
}

/// A recipe with settings of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct With {
    recipe: String,
    /// Its initial weights, as for `mim pretrain --init`.
    init: Option<String>,
    /// In texts here and in `init`, `{sweep}` is the folder of all runs, and `{seed}` the seed of the run.
    #[serde(default)]
    set: toml::Table,
}

impl Entry {
    fn recipe(&self) -> &String {
        match self {
            Self::Recipe(recipe) | Self::With(With { recipe, .. }) => recipe,
        }
    }

    fn init(&self) -> Option<&String> {
        match self {
            Self::Recipe(_) => None,
            Self::With(with) => with.init.as_ref(),
        }
    }

    /// Its own settings, by dotted key.
    fn settings(&self) -> Vec<(String, String)> {
        let mut own = Vec::new();
        if let Self::With(With { set, .. }) = self {
            flatten(set, "", &mut own);
        }
        own
    }
}

fn one_seed() -> Vec<u64> {
    vec![0]
}

/// A run of the sweep.
#[derive(Debug, Clone, PartialEq)]
struct Planned {
    name: String,
    recipe: String,
    seed: u64,
    init: Option<String>,
    set: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let text = fs::read_to_string(&args.file).map_err(Error::io("read", &args.file))?;
    let table = text.parse::<toml::Table>();
    let table =
        table.map_err(|error| Error::format(&args.file, error.to_string(), "correct the TOML"))?;
    let sweep: Sweep = settings::read("sweep", table)?;
    let planned = sweep.plan()?;
    let stem = args.file.file_stem().unwrap_or_default();
    let output = args
        .output_dir
        .clone()
        .unwrap_or_else(|| Path::new("sweeps").join(stem));
    if args.dry_run {
        for run in &planned {
            println!("{}", run.command_line(&output, &args.device)?);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let program = std::env::current_exe().map_err(Error::io("find", "this program"))?;
    let mut failed = Vec::new();
    for (at, run) in planned.iter().enumerate() {
        let path = output.join(&run.name);
        if path.join("summary.json").exists() {
            eprintln!("[{}/{}] {} is done", at + 1, planned.len(), run.name);
            continue;
        }
        eprintln!("[{}/{}] {}", at + 1, planned.len(), run.name);
        let mut command = Command::new(&program);
        command
            .args(run.arguments(&output, &args.device))
            .stdout(Stdio::null());
        let status = command.status().map_err(Error::io("start", &program))?;
        if let Some(code) = interrupted(status) {
            eprintln!("the sweep was interrupted; run the same command to continue");
            return Ok(ExitCode::from(code));
        }
        if !status.success() {
            failed.push(run.name.clone());
        }
    }
    report(&output, &planned, &failed)
}

/// The exit status of a run that a signal ended.
fn interrupted(status: ExitStatus) -> Option<u8> {
    match status.code() {
        Some(code @ (130 | 143)) => u8::try_from(code).ok(),
        Some(_) => None,
        // Killed by a signal.
        None => Some(130),
    }
}

/// Writes the tables of the finished runs, and names those that failed.
fn report(output: &Path, planned: &[Planned], failed: &[String]) -> Result<ExitCode> {
    let done = planned.iter().map(|run| output.join(&run.name));
    let done: Vec<PathBuf> = done
        .filter(|run| run.join("summary.json").exists())
        .collect();
    if !done.is_empty() {
        let comparison = Comparison::of(&done, &[])?;
        files::write(&output.join("results.csv"), comparison.to_text(Table::Csv))?;
        files::write(&output.join("report.html"), report::of_runs(&done)?)?;
        print!("{}", comparison.to_text(Table::Markdown));
        println!("{}", output.join("report.html").display());
    }
    for name in failed {
        eprintln!("failed: {name}; run the same command to try again");
    }
    Ok(match failed {
        [] => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

impl Sweep {
    /// Every run: recipe by recipe, combination by combination, seed by seed.
    fn plan(&self) -> Result<Vec<Planned>> {
        for (field, empty) in [
            ("recipes", self.recipes.is_empty()),
            ("seeds", self.seeds.is_empty()),
        ] {
            if empty {
                let (why, fix) = ("there is nothing to run", "give one or more");
                return Err(Error::config("sweep", field, "[]", why, fix));
            }
        }
        let mut combinations: Vec<Vec<(String, String)>> = vec![vec![]];
        for (key, values) in &self.vary {
            if values.is_empty() {
                let (why, fix) = ("there is nothing to choose from", "give one or more values");
                return Err(Error::config(
                    "sweep",
                    format!("vary.{key}"),
                    "[]",
                    why,
                    fix,
                ));
            }
            let longer = combinations.iter().flat_map(|chosen| {
                values
                    .iter()
                    .map(|value| [chosen.clone(), vec![(key.clone(), value.to_string())]].concat())
            });
            combinations = longer.collect();
        }
        let mut same = Vec::new();
        flatten(&self.set, "", &mut same);
        let mut planned = Vec::new();
        for entry in &self.recipes {
            let own = entry.settings();
            for combination in &combinations {
                for &seed in &self.seeds {
                    let set = same
                        .iter()
                        .chain(&own)
                        .chain(combination)
                        .map(|(key, value)| format!("{key}={value}"));
                    planned.push(Planned {
                        name: name(entry.recipe(), combination, seed),
                        recipe: entry.recipe().clone(),
                        seed,
                        init: entry.init().cloned(),
                        set: set.collect(),
                    });
                }
            }
        }
        Ok(planned)
    }
}

/// A folder name that says what is special about a run.
fn name(recipe: &str, combination: &[(String, String)], seed: u64) -> String {
    let stem = Path::new(recipe).file_stem().unwrap_or_default();
    let mut name = stem.to_string_lossy().into_owned();
    for (key, value) in combination {
        let leaf = key.rsplit('.').next().unwrap_or(key);
        let plain = |c: char| {
            if c.is_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '_'
            }
        };
        let value: String = value.trim_matches('"').chars().map(plain).collect();
        name += &format!("-{leaf}_{value}");
    }
    format!("{name}-seed_{seed}")
}

/// Every setting of a table with its dotted key.
fn flatten(table: &toml::Table, path: &str, all: &mut Vec<(String, String)>) {
    for (key, value) in table {
        let path = match path {
            "" => key.clone(),
            path => format!("{path}.{key}"),
        };
        match value {
            Value::Table(inner) => flatten(inner, &path, all),
            value => all.push((path, value.to_string())),
        }
    }
}

impl Planned {
    /// The command of the run as a shell reads it.
    fn command_line(&self, output: &Path, device: &str) -> Result<String> {
        let arguments = self.arguments(output, device);
        let words = iter::once("mim").chain(arguments.iter().map(String::as_str));
        shlex::try_join(words).map_err(|_| {
            let (why, fix) = ("no command line holds a NUL character", "remove it");
            Error::config("sweep", "recipes", &self.recipe, why, fix)
        })
    }

    /// The command line of the run, after the program.
    fn arguments(&self, output: &Path, device: &str) -> Vec<String> {
        let path = output.join(&self.name);
        let seed = self.seed.to_string();
        let mut arguments = vec!["pretrain".to_owned()];
        // A run that has started has its settings in its folder.
        if path.join("config.toml").exists() {
            arguments.extend(["--resume".to_owned(), "auto".to_owned()]);
        } else {
            let recipe = self.recipe.clone();
            arguments.extend(["--config".to_owned(), recipe, "--seed".to_owned(), seed]);
            let filled = |text: &String| {
                let sweep = output.to_string_lossy();
                let text = text.replace("{sweep}", &sweep);
                text.replace("{seed}", &self.seed.to_string())
            };
            if let Some(init) = &self.init {
                arguments.extend(["--init".to_owned(), filled(init)]);
            }
            for setting in &self.set {
                arguments.extend(["--set".to_owned(), filled(setting)]);
            }
        }
        let path = path.to_string_lossy().into_owned();
        arguments.extend([
            "--output-dir".to_owned(),
            path,
            "--device".to_owned(),
            device.to_owned(),
        ]);
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep(text: &str) -> Sweep {
        settings::read("sweep", text.parse().unwrap()).unwrap()
    }

    #[test]
    fn every_combination_is_a_run_with_a_name_of_its_own() {
        let text = "recipes = [\"mae_32px\", \"my/own.toml\"]\nseeds = [0, 7]\n[set]\ntrain.epochs = 2\n\
            [vary]\n\"mask_ratio\" = [0.5, 0.75]\n\"encoder.depth\" = [2]";
        let planned = sweep(text).plan().unwrap();
        assert_eq!(planned.len(), 8);
        assert_eq!(planned[0].name, "mae_32px-depth_2-mask_ratio_0.5-seed_0");
        assert_eq!(
            planned[0].set,
            ["train.epochs=2", "encoder.depth=2", "mask_ratio=0.5"]
        );
        assert_eq!(planned[7].name, "own-depth_2-mask_ratio_0.75-seed_7");
        let names: std::collections::BTreeSet<_> = planned.iter().map(|run| &run.name).collect();
        assert_eq!(names.len(), 8);
        let line = planned[0].arguments(Path::new("nowhere"), "cpu").join(" ");
        assert_eq!(
            line,
            "pretrain --config mae_32px --seed 0 --set train.epochs=2 --set encoder.depth=2 --set mask_ratio=0.5 \
             --output-dir nowhere/mae_32px-depth_2-mask_ratio_0.5-seed_0 --device cpu"
        );
    }

    #[test]
    fn commands_are_printed_as_a_shell_reads_them() {
        let text = "recipes = [\"dbot_32px\"]\nseeds = [0]\n[set]\nstage_starts = [0, 3]\ndata.source = \"folder:my photos\"";
        let planned = sweep(text).plan().unwrap();
        let line = planned[0].command_line(Path::new("all"), "cpu").unwrap();
        let read = shlex::split(&line).unwrap();
        assert_eq!(read[0], "mim");
        assert_eq!(read[1..], planned[0].arguments(Path::new("all"), "cpu"));
        let nul = sweep("recipes = [\"a\\u0000\"]\nseeds = [0]").plan();
        let line = nul.unwrap()[0].command_line(Path::new("all"), "cpu");
        assert!(line.unwrap_err().to_string().contains("NUL"));
    }

    #[test]
    fn a_recipe_may_name_another_run_of_the_sweep() {
        let text = "recipes = [{ recipe = \"beit_32px\", init = \"{sweep}/a\", set = { target.checkpoint = \"{sweep}/vqkd-seed_{seed}\" } }]\nseeds = [7]";
        let planned = sweep(text).plan().unwrap();
        let line = planned[0].arguments(Path::new("all"), "cpu").join(" ");
        assert!(
            line.contains("--init all/a --set target.checkpoint=\"all/vqkd-seed_7\""),
            "{line}"
        );
        let wrong = "recipes = [{ recipe = \"a\", sets = {} }]".parse().unwrap();
        assert!(settings::read::<Sweep>("sweep", wrong).is_err());
    }

    #[test]
    fn what_runs_nothing_is_refused() {
        for text in [
            "recipes = []",
            "recipes = [\"a\"]\nseeds = []",
            "recipes = [\"a\"]\n[vary]\nx = []",
        ] {
            assert!(sweep(text).plan().is_err(), "{text}");
        }
        let wrong = "recipes = [\"a\"]\nseed = 3".parse().unwrap();
        assert!(settings::read::<Sweep>("sweep", wrong).is_err());
    }
}
