//! The README says what the registry holds.

use mim::methods::registry::{Registry, methods};

const README: &str = include_str!("../README.md");

/// The method table, as Markdown.
fn table() -> String {
    let rows = methods().iter().map(|method| {
        let recipes: Vec<_> = method
            .recipes
            .iter()
            .map(|(name, _)| format!("`{name}`"))
            .collect();
        format!(
            "| `{}` | {} ({}) | {} | {} | {} |\n",
            method.name,
            method.title,
            method.paper,
            method.archs.join(", "),
            recipes.join(", "),
            method.status,
        )
    });
    let head = "| method | paper | sizes | recipes | agrees with the authors' code |\n|---|---|---|---|---|\n";
    head.to_owned() + &rows.collect::<String>()
}

/// The page about all methods.
fn page() -> String {
    let mut page = "# Methods\n\nMade from the registry; `tests/readme.rs` checks it. `mim methods` lists recipes, and \
        `mim pretrain --config RECIPE` trains one.\n"
        .to_owned();
    for method in methods() {
        let about = method.about;
        let recipes: Vec<_> = method
            .recipes
            .iter()
            .map(|(name, _)| format!("`{name}`"))
            .collect();
        page += &format!(
            "\n## {}\n\n{} ({}). Reference: {}. Recipes: {}.\n\n- Hidden: {}.\n- Predicted: {}.\n- By: {}.\n\
             - Loss: {}.\n- When: {}\n",
            method.name,
            method.title,
            method.paper,
            method.reference,
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
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/methods.md");
    let found = std::fs::read_to_string(path).unwrap_or_default();
    let page = page();
    assert!(found == page, "write this to docs/methods.md:\n\n{page}");
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

/// What stands between the marks called `mark`.
fn between_marks(mark: &str) -> Option<&'static str> {
    let (_, rest) = README.split_once(&format!("<!-- {mark}"))?;
    let (_, rest) = rest.split_once("-->\n")?;
    let (found, _) = rest.split_once(&format!("<!-- /{mark} -->"))?;
    Some(found)
}

#[test]
fn the_tables_are_those_of_the_registry() {
    for (mark, table) in [("METHODS", table()), ("PARTS", parts())] {
        assert!(
            between_marks(mark) == Some(&table),
            "put this table between the {mark} marks of README.md:\n\n{table}"
        );
    }
}

#[test]
fn the_composed_method_is_as_short_as_promised() {
    let (_, composed) = README
        .split_once("## Compose a method")
        .expect("the section");
    let (_, code) = composed.split_once("```rust\n").expect("its code");
    let (code, _) = code.split_once("```").expect("the end of its code");
    let lines = code.lines().filter(|line| !line.trim().is_empty()).count();
    assert!(lines < 40, "it has {lines} lines");
}

#[test]
fn every_linked_file_is_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    // A part after `](` that ends with `)` is a link's address.
    for link in README
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
    {
        assert!(
            link.starts_with("https://") || root.join(link).exists(),
            "{link} is linked, but not there"
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
