//! The HTML pages.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::data::RunData;

const CHARTS: &str = include_str!("assets/uPlot.iife.min.js");
const CHART_STYLE: &str = include_str!("assets/uPlot.min.css");
const SCRIPT: &str = include_str!("assets/report.js");
const STYLE: &str = include_str!("assets/report.css");

/// Row titles of a summary, by the prefix of its keys.
const ROWS: [(&str, &str); 3] = [
    ("", "pretrained encoder"),
    ("random_", "random encoder"),
    ("raw_", "raw pixels"),
];
/// The protocols of a row.
const PROTOCOLS: [(&str, &str); 4] = [
    ("linear", "linear probe"),
    ("knn", "k-NN"),
    ("finetuned", "fine-tuned"),
    ("lowshot", "few labels"),
];

/// Text escaped for HTML.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// A result formatted for readers; accuracies are percentages.
fn result(name: &str, value: f64) -> String {
    match name.ends_with("_top1") {
        true => format!("{value:.1}"),
        false => number(value),
    }
}

/// A number formatted for readers.
fn number(value: f64) -> String {
    match value.abs() {
        0. => "0".to_owned(),
        size if !(1e-3..1e6).contains(&size) => format!("{value:.3e}"),
        size if size >= 100. => format!("{value:.1}"),
        _ => format!("{value:.4}"),
    }
}

fn table(class: &str, head: &[String], rows: &[Vec<String>]) -> String {
    let cells = |tag: &str, cells: &[String]| -> String {
        let cells = cells.iter().map(|cell| format!("<{tag}>{cell}</{tag}>"));
        format!("<tr>{}</tr>", cells.collect::<String>())
    };
    let body: String = rows.iter().map(|row| cells("td", row)).collect();
    let head = cells("th", head);
    format!(
        "<div class=\"wide\"><table class=\"{class}\"><thead>{head}</thead><tbody>{body}</tbody></table></div>"
    )
}

fn page(title: &str, body: &str, data: &Value) -> String {
    // The data must not be able to close the script element.
    let data = data.to_string().replace("</", "<\\/");
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>{title}</title>\
         <link rel=\"icon\" href=\"data:,\"><style>{CHART_STYLE}\n{STYLE}</style></head>\n<body><main>\n{body}\n</main>\n\
         <script type=\"application/json\" id=\"data\">{data}</script>\n<script>{CHARTS}</script>\n\
         <script>{SCRIPT}</script></body></html>\n"
    )
}

fn chart_data(runs: &[RunData]) -> Value {
    let runs = runs.iter().map(|run| {
        json!({
            "name": run.name,
            "epochs": run.log.iter().map(|record| record.epoch + 1).collect::<Vec<_>>(),
            "curves": run.curves(),
            "settings": run.settings,
            "results": run.results(),
        })
    });
    json!({ "runs": runs.collect::<Vec<_>>() })
}

/// The table of probes with their confidence intervals.
fn results(summary: &Value) -> String {
    let figure = |row: &str, protocol: &str| -> Option<String> {
        let of = |end: &str| summary.get(format!("{row}{protocol}_{end}"));
        let top1 = of("top1")?.as_f64()?;
        let bound = |at: usize| of("top1_interval")?.get(at)?.as_f64();
        Some(match (bound(0), bound(1)) {
            (Some(low), Some(high)) => {
                format!("<b>{top1:.1}</b> <small>[{low:.1}, {high:.1}]</small>")
            }
            _ => format!("<b>{top1:.1}</b>"),
        })
    };
    let of = |protocol: &str| ROWS.iter().any(|(row, _)| figure(row, protocol).is_some());
    let protocols: Vec<_> = PROTOCOLS
        .iter()
        .filter(|(protocol, _)| of(protocol))
        .collect();
    if protocols.is_empty() {
        return String::new();
    }
    let split = summary
        .get("split")
        .and_then(Value::as_str)
        .unwrap_or("held-out images");
    // A fine-tuning run has no probes.
    let tuned = figure("", "linear").is_none() && figure("", "knn").is_none();
    let named = |row: &str, name: &'static str| match tuned && row.is_empty() {
        true => "trained with labels",
        false => name,
    };
    let mut head = vec![format!("top-1 in percent ({})", escape(split))];
    head.extend(protocols.iter().map(|(_, name)| (*name).to_owned()));
    let rows = ROWS.iter().filter_map(|(row, name)| {
        let figures: Vec<_> = protocols
            .iter()
            .map(|(protocol, _)| figure(row, protocol))
            .collect();
        figures.iter().any(Option::is_some).then(|| {
            let mut cells = vec![named(row, name).to_owned()];
            cells.extend(
                figures
                    .into_iter()
                    .map(|figure| figure.unwrap_or("-".to_owned())),
            );
            cells
        })
    });
    let rows: Vec<_> = rows.collect();
    format!(
        "<h2>Results</h2>{}<p class=\"note\">In brackets: 95 % interval of a bootstrap over images.</p>",
        table("", &head, &rows)
    )
}

/// A line of key figures.
fn key_figures(run: &RunData) -> String {
    let mut figures: Vec<(String, String)> = Vec::new();
    let of = |name: &str| run.summary.get(name).and_then(Value::as_f64);
    if let Some(record) = run.log.last() {
        figures.push((number(record.train_loss), "final loss".to_owned()));
        figures.push(((record.epoch + 1).to_string(), "epochs".to_owned()));
        figures.push((record.step.to_string(), "steps".to_owned()));
    }
    for (name, unit) in [
        ("images", "images"),
        ("images_per_s", "images a second"),
        ("seconds", "seconds in all"),
    ] {
        if let Some(value) = of(name) {
            figures.push((format!("{value:.0}"), unit.to_owned()));
        }
    }
    let cards = figures
        .iter()
        .map(|(value, what)| format!("<div><b>{}</b><span>{what}</span></div>", escape(value)));
    format!("<div class=\"cards\">{}</div>", cards.collect::<String>())
}

fn list(title: &str, lines: Option<&Value>) -> String {
    let lines = lines.and_then(Value::as_array).into_iter().flatten();
    let lines: String = lines
        .filter_map(Value::as_str)
        .map(|line| format!("<li>{}</li>", escape(line)))
        .collect();
    match lines.is_empty() {
        true => String::new(),
        false => format!("<h2>{title}</h2><ul>{lines}</ul>"),
    }
}

fn machine(summary: &Value) -> String {
    let text = |value: &Value| match value {
        Value::String(text) => escape(text),
        value => value.to_string(),
    };
    let own = ["version", "commit"].iter();
    let own = own.filter_map(|key| Some(((*key).to_owned(), text(summary.get(*key)?))));
    let machine = summary
        .get("machine")
        .and_then(Value::as_object)
        .into_iter()
        .flatten();
    let rows: Vec<Vec<String>> = own
        .chain(machine.map(|(key, value)| (key.clone(), text(value))))
        .map(|(key, value)| vec![key, value])
        .collect();
    match rows.is_empty() {
        true => String::new(),
        false => format!(
            "<h2>Machine and versions</h2>{}",
            table("", &[String::new(), String::new()], &rows)
        ),
    }
}

/// The page of one run.
pub(super) fn single(run: &RunData) -> String {
    let mut body = format!(
        "<h1>{}</h1><p>{}</p>",
        escape(&run.name),
        escape(&run.method)
    );
    body += &key_figures(run);
    if run.summary.is_null() {
        body += "<p class=\"note\">This run has not ended: there is no summary.json.</p>";
    }
    body += &results(&run.summary);
    body += "<h2>Curves</h2><div id=\"curves\" class=\"charts\"></div>";
    if !run.pictures.is_empty() {
        body += "<h2>Pictures</h2>";
    }
    for (name, bytes) in &run.pictures {
        let (name, bytes) = (escape(name), BASE64_STANDARD.encode(bytes));
        // Writing to a string cannot fail.
        let _ = write!(
            body,
            "<figure><img alt=\"{name}\" src=\"data:image/png;base64,{bytes}\"><figcaption>{name}</figcaption></figure>"
        );
    }
    body += &list("Problems", run.summary.get("problems"));
    body += &list("Notes", run.summary.get("notes"));
    body += &settings(run);
    body += &machine(&run.summary);
    page(&run.name, &body, &chart_data(std::slice::from_ref(run)))
}

fn settings(run: &RunData) -> String {
    let mut body = String::from("<h2>Settings</h2>");
    let code = |text: &str| format!("<code>{}</code>", escape(text));
    if let Some((recipe, differ)) = &run.recipe {
        let rows = differ
            .iter()
            .map(|(key, own, theirs)| vec![code(key), code(own), code(theirs)]);
        let rows: Vec<_> = rows.collect();
        let head = ["setting", "this run", recipe].map(escape);
        body += &match rows.is_empty() {
            true => format!("<p>They are those of the recipe {}.</p>", code(recipe)),
            false => format!(
                "<p>What differs from the recipe {}:</p>{}",
                code(recipe),
                table("", &head, &rows)
            ),
        };
    }
    let all = run
        .settings
        .iter()
        .map(|(key, value)| vec![code(key), code(value)]);
    let all: Vec<_> = all.collect();
    let head = ["setting", "value"].map(str::to_owned);
    body + &format!(
        "<details><summary>All settings</summary>{}</details>",
        table("", &head, &all)
    )
}

/// Settings that differ between runs.
fn varying(runs: &[RunData]) -> Vec<String> {
    let keys: BTreeSet<&String> = runs.iter().flat_map(|run| run.settings.keys()).collect();
    let differs = |key: &&String| {
        let values: BTreeSet<_> = runs.iter().map(|run| run.settings.get(*key)).collect();
        values.len() > 1
    };
    keys.into_iter().filter(differs).cloned().collect()
}

/// The page of several runs.
pub(super) fn many(runs: &[RunData]) -> String {
    let results: Vec<BTreeMap<String, f64>> = runs.iter().map(RunData::results).collect();
    let has = |name: &str| results.iter().any(|all| all.contains_key(name));
    let mut columns: Vec<String> = Vec::new();
    for (row, _) in ROWS {
        columns.extend(
            PROTOCOLS
                .iter()
                .map(|(protocol, _)| format!("{row}{protocol}_top1")),
        );
    }
    columns.extend(["final_loss", "images_per_s", "seconds"].map(str::to_owned));
    columns.retain(|name| has(name));
    let mut head = vec!["run".to_owned(), "method".to_owned(), "epochs".to_owned()];
    head.extend(columns.iter().map(|name| escape(name)));
    let rows = runs.iter().zip(&results).map(|(run, results)| {
        let mut cells = vec![
            escape(&run.name),
            escape(&run.method),
            run.log.len().to_string(),
        ];
        cells.extend(columns.iter().map(|name| {
            results
                .get(name)
                .map_or("-".to_owned(), |value| result(name, *value))
        }));
        cells
    });
    let rows: Vec<_> = rows.collect();
    let mut data = chart_data(runs);
    data["varying"] = json!(varying(runs));
    let body = format!(
        "<h1>{} runs</h1><p class=\"note\">Click on a heading to sort.</p>{}\
         <h2>Curves</h2><p><label>Curve <select id=\"curve\"></select></label></p><div id=\"overlay\" class=\"charts one\"></div>\
         <h2>Settings against results</h2><p><label>x <select id=\"x\"></select></label> <label>y <select id=\"y\"></select></label></p>\
         <div id=\"scatter\" class=\"charts one\"></div>",
        runs.len(),
        table("sortable", &head, &rows)
    );
    page("runs", &body, &data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mim_core::train::EpochRecord;

    fn run(name: &str, loss: f64) -> RunData {
        let record = EpochRecord {
            epoch: 0,
            step: 10,
            train_loss: loss,
            terms: BTreeMap::new(),
            measured: BTreeMap::from([("rankme".to_owned(), 3.)]),
            lr: 1e-3,
            grad_norm: 1.,
            images_per_s: 100.,
        };
        RunData {
            name: name.to_owned(),
            method: "mae".to_owned(),
            settings: BTreeMap::from([("train.seed".to_owned(), name.to_owned())]),
            recipe: Some(("mae_32px".to_owned(), vec![])),
            log: vec![record],
            summary: json!({
                "linear_top1": 71.5, "linear_top1_interval": [70.0, 73.0], "split": "test",
                "problems": ["no k-NN: <k> is too large"],
            }),
            pictures: vec![("picture.png".to_owned(), vec![1, 2, 3])],
        }
    }

    #[test]
    fn a_page_is_self_contained_and_its_data_cannot_close_a_script() {
        let page = single(&run("</script><b>", 0.5));
        assert_eq!(
            page.matches("</script>").count(),
            3,
            "data, charts and our own"
        );
        assert!(
            page.contains("&lt;/script&gt;&lt;b&gt;") && page.contains("&lt;k&gt; is too large")
        );
        assert!(page.contains("<b>71.5</b> <small>[70.0, 73.0]</small>"));
        assert!(page.contains("data:image/png;base64,AQID"));
        for outside in ["src=\"http", "href=\"http", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn runs_are_compared_by_the_settings_that_vary() {
        let runs = [run("first", 0.5), run("second", 0.4)];
        assert_eq!(varying(&runs), ["train.seed"]);
        let page = many(&runs);
        assert!(
            page.contains("<td>first</td><td>mae</td><td>1</td><td>71.5</td>"),
            "{page}"
        );
        assert!(!page.contains("knn_top1</th>"));
    }
}
