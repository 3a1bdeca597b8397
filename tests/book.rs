//! README and book say what the registry holds, and their links lead somewhere.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use mim::methods::registry::{Registry, methods};

const README: &str = include_str!("../README.md");
const COMPOSING: &str = include_str!("../docs/src/composing.md");
const METHODS_PAGE: &str = "docs/src/methods.md";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The method table, as Markdown.
fn table() -> String {
    let rows = methods().iter().map(|method| {
        format!(
            "| `{}` | {} ({}) | {} |\n",
            method.name, method.title, method.paper, method.status
        )
    });
    let head = "| method | paper | agrees with the authors' code |\n|---|---|---|\n";
    head.to_owned() + &rows.collect::<String>()
}

/// The page about all methods.
fn page() -> String {
    let mut page = "# All methods\n\nMade from the registry; `tests/book.rs` checks it. `mim methods` lists the same, and \
        `mim pretrain --config RECIPE` trains one.\n"
        .to_owned();
    for method in methods() {
        let about = method.about;
        let recipes: Vec<_> = method
            .recipes
            .iter()
            .map(|(name, _)| format!("`{name}`"))
            .collect();
        let sizes = match method.archs {
            [] => "those of its parts".to_owned(),
            archs => archs.join(", "),
        };
        page += &format!(
            "\n## {}\n\n{} ({}). Reference: {}. Agreement: {}. Sizes: {sizes}. Recipes: {}.\n\n- Hidden: {}.\n\
             - Predicted: {}.\n- By: {}.\n- Loss: {}.\n- When: {}\n",
            method.name,
            method.title,
            method.paper,
            method.reference,
            method.status,
            recipes.join(", "),
            about.hidden,
            about.predicted,
            about.by,
            about.loss,
            about.choose,
        );
    }
    page
}

#[test]
fn every_method_is_described_and_the_page_is_that_of_the_registry() {
    for method in methods() {
        let about = method.about;
        for line in [
            about.hidden,
            about.predicted,
            about.by,
            about.loss,
            about.choose,
        ] {
            assert!(
                !line.is_empty(),
                "say what {} does in its ENTRY",
                method.name
            );
        }
    }
    let found = fs::read_to_string(root().join(METHODS_PAGE)).unwrap_or_default();
    let page = page();
    assert!(found == page, "write this to {METHODS_PAGE}:\n\n{page}");
}

/// The parts of the method `custom`, as Markdown.
fn parts() -> String {
    let registry = Registry::default();
    let rows = registry.kinds().into_iter().flat_map(|(kind, infos)| {
        infos.into_iter().map(move |info| {
            let (name, about, paper) = (&info.name, info.about, info.paper);
            format!("| `{kind}.type` | `{name}` | {about} | {paper} |\n")
        })
    });
    let head = "| setting | value | part | paper |\n|---|---|---|---|\n";
    head.to_owned() + &rows.collect::<String>()
}

/// What stands in `text` between the marks called `mark`.
fn between_marks<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<!-- {mark}"))?;
    let (_, rest) = rest.split_once("-->\n")?;
    let (found, _) = rest.split_once(&format!("<!-- /{mark} -->"))?;
    Some(found)
}

#[test]
fn the_tables_are_those_of_the_registry() {
    let pages = [
        ("README.md", README, "METHODS", table()),
        ("docs/src/composing.md", COMPOSING, "PARTS", parts()),
    ];
    for (file, text, mark, table) in pages {
        assert!(
            between_marks(text, mark) == Some(&table),
            "put this table between the {mark} marks of {file}:\n\n{table}"
        );
    }
}

#[test]
fn the_readme_fits_on_a_few_screens() {
    let lines = README.lines().count();
    assert!(
        lines <= 160,
        "README.md has {lines} lines: move some of them into the book"
    );
}

/// Lines of the first Rust block of `text` that are not blank.
fn composed(text: &str) -> Vec<&str> {
    let (_, code) = text.split_once("```rust").expect("a block of Rust");
    let (_, code) = code.split_once('\n').expect("its code");
    let (code, _) = code.split_once("```").expect("its end");
    code.lines()
        .filter(|line| !line.trim().is_empty())
        .collect()
}

#[test]
fn the_composed_method_is_as_short_as_promised_and_the_same_in_the_book() {
    let code = composed(README);
    assert!(code.len() < 40, "it has {} lines", code.len());
    assert_eq!(code, composed(COMPOSING));
}

/// All pages for people, the book's last.
fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<_> = [
        "README.md",
        "CONTRIBUTING.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
    ]
    .into_iter()
    .map(|name| root().join(name))
    .collect();
    let chapters = fs::read_dir(root().join("docs/src")).expect("the book");
    let chapters = chapters.map(|entry| entry.expect("a file of the book").path());
    pages.extend(chapters.filter(|path| path.extension().is_some_and(|end| end == "md")));
    pages
}

/// `text` without its blocks of code.
fn prose(text: &str) -> String {
    let blocks = text.split("```");
    blocks.step_by(2).collect()
}

/// Addresses of the links and pictures in `text`.
fn links(text: &str) -> Vec<String> {
    let after = prose(text);
    let ends = after.split("](").skip(1);
    ends.filter_map(|rest| rest.split(')').next())
        .map(str::to_owned)
        .collect()
}

/// The anchors of the headings in `text`, as mdBook and code hosts make them.
fn anchors(text: &str) -> HashSet<String> {
    let text = prose(text);
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let title = title.replace(' ', "-");
            let kept = |sign: &char| sign.is_alphanumeric() || matches!(sign, '-' | '_');
            title.chars().filter(kept).collect()
        })
        .collect()
}

/// What is wrong with the link `link` on the page `from`.
fn broken(from: &Path, link: &str) -> Option<&'static str> {
    if link.starts_with("https://") {
        return None;
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = match path {
        "" => from.to_owned(),
        path => from.parent()?.join(path),
    };
    let book = root().join("docs/src");
    let Ok(target) = target.canonicalize() else {
        return Some("is not there");
    };
    if from.starts_with(&book) && !target.starts_with(book.canonicalize().ok()?) {
        return Some("is not part of the book");
    }
    (!anchor.is_empty() && !anchors(&read(&target)).contains(anchor))
        .then_some("has no such heading")
}

#[test]
fn every_link_leads_somewhere() {
    let mut checked = 0;
    for page in pages() {
        for link in links(&read(&page)) {
            checked += 1;
            if let Some(what) = broken(&page, &link) {
                panic!("{}: {link} {what}", page.display());
            }
        }
    }
    assert!(checked > 50, "only {checked} links were found");
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let page = root().join("docs/src/index.md");
    assert_eq!(broken(&page, "first-steps.md#train"), None);
    assert_eq!(broken(&page, "nowhere.md"), Some("is not there"));
    assert_eq!(
        broken(&page, "first-steps.md#no"),
        Some("has no such heading")
    );
    assert_eq!(
        broken(&page, "../book.toml"),
        Some("is not part of the book")
    );
}

#[test]
fn every_chapter_is_in_the_summary_and_its_rust_is_tested() {
    let summary = links(&read(&root().join("docs/src/SUMMARY.md")));
    let tested = read(&root().join("src/lib.rs"));
    for page in pages()
        .iter()
        .filter(|page| page.starts_with(root().join("docs")))
    {
        let name = page
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        assert!(
            name == "SUMMARY.md" || summary.contains(&name),
            "add {name} to SUMMARY.md"
        );
        assert!(
            !read(page).contains("```rust") || tested.contains(&format!("docs/src/{name}")),
            "{name} has Rust code: include it in src/lib.rs"
        );
    }
}

/// Methods that the sweep over all cannot hold, and why.
const NOT_SWEPT: [(&str, &str); 3] = [
    ("custom", "any composition"),
    ("finetune", "each run ends with it"),
    ("i2pmae", "point clouds"),
];

#[test]
fn the_sweep_over_all_methods_has_every_method() {
    let sweep = include_str!("../scripts/fashion_mnist.toml");
    for method in methods() {
        let small = format!("\"{}_32px\"", method.name);
        let left_out = NOT_SWEPT.iter().any(|(name, _)| *name == method.name);
        assert_ne!(
            sweep.contains(&small),
            left_out,
            "name {small} in scripts/fashion_mnist.toml, or in NOT_SWEPT with the reason"
        );
    }
}
