//! Every block of code in README, CONTRIBUTING and the book is run, or checked for its syntax.
//!
//! A block `sh` is run in a folder with a tiny run `runs/mae-1`, images in `photos`, IDX files in `fashion-mnist` and
//! weights in `vit.safetensors`; commands that train print their settings instead (`--print-config`). Of a block
//! `sh,no_run`, which needs the network, a GPU or hours, the command line is parsed. A block `toml` is read:
//! as `my.toml` where it has a method, as `small.toml` where it is a sweep. Rust is compiled with the doc tests.

#![allow(
    clippy::cast_possible_truncation,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A block of code on a page.
struct Block {
    /// The page and the line, for messages.
    place: String,
    /// What stands behind the fence: a language, perhaps with `,no_run`.
    info: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages that have commands.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md"), root().join("CONTRIBUTING.md")];
    let chapters = fs::read_dir(root().join("docs/src")).unwrap();
    let chapters = chapters.map(|entry| entry.unwrap().path());
    pages.extend(chapters.filter(|path| path.extension().is_some_and(|end| end == "md")));
    pages
}

fn blocks(page: &Path) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut open = false;
    for (number, line) in fs::read_to_string(page).unwrap().lines().enumerate() {
        match line.trim_start().strip_prefix("```") {
            Some(_) if open => open = false,
            Some(info) => {
                open = true;
                found.push(Block {
                    place: format!("{}:{}", page.display(), number + 1),
                    info: info.to_owned(),
                    text: String::new(),
                });
            }
            None if open => found.last_mut().unwrap().text += &format!("{line}\n"),
            None => (),
        }
    }
    found
}

/// The words of a line of the shell, without its comment.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quote) = (None::<String>, None);
    for sign in line.chars() {
        match (quote, sign) {
            (Some(mark), sign) if sign == mark => quote = None,
            (None, '\'' | '"') => {
                quote = Some(sign);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, ' ') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(sign),
        }
    }
    assert!(quote.is_none(), "a quote is not closed: {line}");
    words.extend(word);
    words
}

/// What a line of the shell starts.
#[derive(Debug, PartialEq)]
enum Start {
    /// `mim` with these arguments.
    Mim(Vec<String>),
    /// Another program, which is there.
    Other,
}

/// Programs that start `mim`, and the options of `cargo` that do.
const LAUNCHERS: [&str; 3] = ["mpirun", "torchrun", "srun"];
/// What is called beside `mim`: programs, and commands of the shell.
const PROGRAMS: [&str; 5] = ["cargo", "mdbook", "git", "tensorboard", "."];

fn start(line: &[String]) -> Result<Start, String> {
    let is_setting = |word: &&String| word.contains('=') && !word.starts_with('-');
    let line: Vec<_> = line.iter().skip_while(is_setting).cloned().collect();
    let first = line.first().ok_or("no command")?.as_str();
    let at = line.iter().position(|word| word == "mim");
    match (first, at) {
        ("mim", _) => Ok(Start::Mim(line[1..].to_vec())),
        (_, Some(at)) if LAUNCHERS.contains(&first) => Ok(Start::Mim(line[at + 1..].to_vec())),
        ("cargo", _) if line.len() > 3 && line[..4] == ["cargo", "run", "--release", "--"] => {
            Ok(Start::Mim(line[4..].to_vec()))
        }
        (program, _) if PROGRAMS.contains(&program) || root().join(program).exists() => {
            match line.iter().skip_while(|word| *word != "--example").nth(1) {
                Some(name) if !root().join(format!("examples/{name}.rs")).exists() => {
                    Err(format!("there is no example {name}"))
                }
                _ => Ok(Start::Other),
            }
        }
        (program, _) => Err(format!("{program} is neither mim nor a program known here")),
    }
}

/// The commands of `block`, each with its line.
fn commands(block: &Block) -> Vec<(String, Start)> {
    let lines = block.text.lines().flat_map(|line| line.split(" && "));
    let lines = lines.map(|line| (line.to_owned(), words(line)));
    lines
        .filter(|(_, words)| !words.is_empty())
        .map(|(line, words)| match start(&words) {
            Ok(start) => (line, start),
            Err(why) => panic!("{}: `{line}`: {why}", block.place),
        })
        .collect()
}

#[test]
fn every_block_has_a_language_that_is_tested() {
    let known = ["sh", "sh,no_run", "toml", "text", "rust", "rust,no_run"];
    for block in pages().iter().flat_map(|page| blocks(page)) {
        let (place, info) = (&block.place, &block.info);
        assert!(
            known.contains(&info.as_str()),
            "{place}: `{info}` is none of {known:?}"
        );
    }
}

#[test]
fn every_command_line_is_right() {
    let mut checked = 0;
    for block in pages().iter().flat_map(|page| blocks(page)) {
        if !block.info.starts_with("sh") {
            continue;
        }
        for (line, start) in commands(&block) {
            let Start::Mim(args) = start else { continue };
            let args = [vec!["mim".to_owned()], args].concat();
            checked += 1;
            if let Err(error) = mim::cli::command().try_get_matches_from(args)
                && error.exit_code() != 0
            {
                panic!("{}: `{line}`\n{error}", block.place);
            }
        }
    }
    assert!(checked > 80, "only {checked} commands were found");
}

#[test]
fn lines_of_the_shell_are_read() {
    let words = words("A=1 mpirun -n 2 mim eval --set 'a = \"b c\"'  # why");
    assert_eq!(words.len(), 8);
    let Ok(Start::Mim(args)) = start(&words) else {
        panic!("{words:?}")
    };
    assert_eq!(args, ["eval", "--set", "a = \"b c\""]);
    assert!(start(&["mmi".to_owned()]).is_err());
    assert!(
        start(&[
            "cargo".to_owned(),
            "run".to_owned(),
            "--example".to_owned(),
            "no".to_owned()
        ])
        .is_err()
    );
}

#[test]
fn every_help_has_an_example_that_is_right() {
    let command = mim::cli::command();
    let mut left = vec![(command.get_name().to_owned(), &command)];
    while let Some((name, command)) = left.pop() {
        let help = command
            .get_after_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        let examples = help.lines().map(str::trim);
        let examples: Vec<_> = examples.filter(|line| line.starts_with("mim ")).collect();
        assert!(
            examples.iter().any(|line| line.starts_with(&name)),
            "{name} --help has no example"
        );
        for line in examples {
            // What explains a line stands behind some spaces.
            let shown = line.split("   ").next().unwrap_or_default();
            let shown = shown.split(['|', '>']).next().unwrap_or_default();
            let parsed = mim::cli::command().try_get_matches_from(words(shown));
            assert!(
                parsed.is_ok(),
                "{name} --help: `{shown}`: {}",
                parsed.unwrap_err()
            );
        }
        let inner = command.get_subcommands();
        left.extend(inner.map(|inner| (format!("{name} {}", inner.get_name()), inner)));
    }
}

#[test]
fn unknown_names_on_the_command_line_get_the_nearest_one() {
    for (args, nearest) in [
        (&["pretain"][..], "'pretrain'"),
        (&["pretrain", "--epoch", "3"], "'--epochs'"),
        (&["pretrain", "--method", "mea", "--print-config"], "mae"),
        (
            &["pretrain", "--config", "mae_bse", "--print-config"],
            "mae_base",
        ),
        (&["methods", "simim"], "simmim"),
        (&["parts", "blockwize"], "blockwise"),
        (&["zoo", "mae_bse"], "mae_base"),
    ] {
        let said = run(root(), &own(args)).unwrap_err();
        let has = |text: &str| said.contains(text);
        assert!(
            (has("did you mean") || has("similar")) && has(nearest),
            "{args:?}: {said}"
        );
    }
}

#[test]
fn alone_the_program_shows_what_is_used_most() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mim"));
    let done = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(2));
    assert!(
        said.contains("mim pretrain") && said.contains("mim --help"),
        "{said}"
    );
}

/// What `mim` prints with these arguments.
fn printed(args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mim"));
    command
        .env("CUDA_VISIBLE_DEVICES", "")
        .env("HF_TOKEN", "hf_secret");
    let done = command.args(args).stdin(Stdio::null()).output().unwrap();
    assert!(
        done.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8_lossy(&done.stdout).into_owned()
}

#[test]
fn shells_and_the_manual_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = printed(&["completions", shell]);
        for command in mim::cli::command().get_subcommands() {
            assert!(
                script.contains(command.get_name()),
                "{shell}: {}",
                command.get_name()
            );
        }
    }
    assert!(printed(&["man"]).contains(".TH mim"));
    let folder = tempfile::tempdir().unwrap();
    printed(&["man", "--output-dir", folder.path().to_str().unwrap()]);
    assert!(folder.path().join("mim-pretrain.1").exists());
}

#[test]
fn the_doctor_says_what_a_report_needs_and_no_secret() {
    let text = printed(&["doctor", "--no-network"]);
    for name in [
        "features",
        "instructions",
        "threads",
        "memory",
        "GPU",
        "Hub",
    ] {
        assert!(text.contains(name), "{name} is not in:\n{text}");
    }
    assert!(!text.contains("hf_secret"), "{text}");
    let json = printed(&["doctor", "--no-network", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        json["features"].as_str().map(|text| text.contains("cli")),
        Some(true)
    );
}

/// Runs `mim` in `folder`; gives what it says on standard error if it fails.
fn run(folder: &Path, args: &[String]) -> Result<(), String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mim"));
    command.env("CUDA_VISIBLE_DEVICES", "").current_dir(folder);
    let done = command.args(args).stdin(Stdio::null()).output().unwrap();
    match done.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&done.stderr).into_owned()),
    }
}

fn own(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

/// A file in MNIST's format with these sizes.
fn idx(path: PathBuf, sizes: &[u32], values: &[u8]) {
    let mut bytes = vec![0, 0, 8, u8::try_from(sizes.len()).unwrap()];
    bytes.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
    bytes.extend(values);
    fs::write(path, bytes).unwrap();
}

/// What the commands of the pages find in their folder.
fn furnish(folder: &Path) {
    for (split, count) in [("train", 12), ("val", 4)] {
        for (class, shade) in [("cat", 60), ("dog", 200)] {
            let class = folder.join("photos").join(split).join(class);
            fs::create_dir_all(&class).unwrap();
            for number in 0..count {
                let pixel =
                    |x: u32, y: u32| image::Rgb([shade, (x * 7 + number) as u8, (y * 5) as u8]);
                let picture = image::RgbImage::from_fn(40, 36, pixel);
                picture.save(class.join(format!("{number}.png"))).unwrap();
            }
        }
    }
    let digits = folder.join("fashion-mnist");
    fs::create_dir(&digits).unwrap();
    for (name, count) in [("train", 40_u8), ("t10k", 20)] {
        let labels: Vec<_> = (0..count).map(|number| number % 2).collect();
        let pixels: Vec<_> = labels.iter().flat_map(|label| [label * 99; 784]).collect();
        idx(
            digits.join(format!("{name}-labels-idx1-ubyte")),
            &[count.into()],
            &labels,
        );
        idx(
            digits.join(format!("{name}-images-idx3-ubyte")),
            &[count.into(), 28, 28],
            &pixels,
        );
    }
    fs::create_dir(folder.join("scripts")).unwrap();
    let sweep = "scripts/fashion_mnist.toml";
    fs::copy(root().join(sweep), folder.join(sweep)).unwrap();
    let encoder =
        "encoder={ image_size = 32, patch_size = 8, embed_dim = 16, depth = 1, num_heads = 2 }";
    let decoder = "decoder={ embed_dim = 8, depth = 1, num_heads = 2 }";
    let mut train = own(&[
        "pretrain",
        "--output-dir",
        "runs/mae-1",
        "--epochs",
        "1",
        "--no-eval",
    ]);
    train.extend(own(&["--set", encoder, "--set", decoder]));
    run(folder, &train).unwrap();
    let export = [
        "export",
        "--checkpoint",
        "runs/mae-1",
        "--format",
        "timm",
        "--output",
        "vit",
    ];
    run(folder, &own(&export)).unwrap();
    fs::rename(
        folder.join("vit/model.safetensors"),
        folder.join("vit.safetensors"),
    )
    .unwrap();
}

/// The block of settings as a file of `folder`; gives the command that reads it.
fn write_settings(folder: &Path, block: &Block) -> Option<Vec<String>> {
    let table: toml::Table = block
        .text
        .parse()
        .unwrap_or_else(|error| panic!("{}: {error}", block.place));
    let (name, command) = if table.contains_key("recipes") {
        ("small.toml", own(&["sweep", "small.toml", "--dry-run"]))
    } else if table.contains_key("method") {
        (
            "my.toml",
            own(&["pretrain", "--config", "my.toml", "--print-config"]),
        )
    } else {
        return None;
    };
    fs::write(folder.join(name), &block.text).unwrap();
    Some(command)
}

/// The options that keep a command short.
fn shortened(mut args: Vec<String>) -> Vec<String> {
    match args.first().map(String::as_str) {
        Some("pretrain" | "finetune") if !args.contains(&"--print-config".to_owned()) => {
            args.push("--print-config".to_owned());
        }
        Some("sweep") if !args.contains(&"--dry-run".to_owned()) => {
            args.push("--dry-run".to_owned())
        }
        _ => (),
    }
    args
}

#[test]
fn every_command_that_can_be_run_works() {
    let folder = tempfile::tempdir().unwrap();
    furnish(folder.path());
    let mut failed = Vec::new();
    for page in pages() {
        let blocks = blocks(&page);
        for block in blocks.iter().filter(|block| block.info == "toml") {
            if let Some(command) = write_settings(folder.path(), block)
                && let Err(error) = run(folder.path(), &command)
            {
                failed.push(format!("{}: {error}", block.place));
            }
        }
        for block in blocks.iter().filter(|block| block.info == "sh") {
            for (line, start) in commands(block) {
                let Start::Mim(args) = start else { continue };
                if let Err(error) = run(folder.path(), &shortened(args)) {
                    failed.push(format!("{}: `{line}`\n{error}", block.place));
                }
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
