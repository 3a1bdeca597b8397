//! Guesses the source of a file from its names, and describes the network.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use super::WeightMap;
use super::rules::{Rule, fill, matches, wrapper};
use super::sources::{Source, all};
use crate::Result;

/// Our names, to decide whether a rule leads to one of them.
const OURS: &[&str] = &[
    "cls_token",
    "mask_token",
    "registers",
    "pos_embed",
    "patch_embed.proj.{p}",
    "patch_embed.norm.{p}",
    "norm.{p}",
    "norm_pre.{p}",
    "proj.weight",
    "rel_pos_bias.relative_position_bias_table",
    "decoder_pos_embed",
    "decoder_embed.{p}",
    "decoder_norm.{p}",
    "decoder_pred.{p}",
    "feature.mask_token",
    "feature.decoder_embed.{p}",
    "feature.decoder_norm.{p}",
    "feature.decoder_pred.{p}",
    "cls_pt_norm.{p}",
    "cls_pt_lm_head.{p}",
    "regressor.mask_token",
    "regressor.pos_embed",
    "regressor.embed.{p}",
    "regressor.embed_norm.{p}",
    "regressor.norm.{p}",
    // I-JEPA.
    "predictor.mask_token",
    "predictor.pos_embed",
    "predictor.embed.{p}",
    "predictor.norm.{p}",
    "predictor.proj.{p}",
    // CrossMAE.
    "wfm.linear.weight",
    "dec_norms.{i}.{p}",
    "encoder.blocks.input.{p}",
    "encoder.blocks.{g}.{b}.id_path.{p}",
    "encoder.blocks.{g}.{b}.res_path.{c}.{p}",
    "encoder.blocks.output.conv.{p}",
];

/// Prefixes of blocks, and the names inside a block.
const BLOCKS: &[&str] = &[
    "blocks.{i}.",
    "layers.{s}.blocks.{i}.",
    "decoder_blocks.{i}.",
    "feature.decoder_blocks.{i}.",
    // The patch aggregation of BEiT v2.
    "cls_pt_layers.{i}.",
    "regressor.blocks.{i}.",
    "predictor.blocks.{i}.",
];
const IN_BLOCK: &[&str] = &[
    "norm1.{p}",
    "norm2.{p}",
    "attn.qkv.{p}",
    "attn.proj.{p}",
    "attn.q_bias",
    "attn.v_bias",
    "attn.relative_position_bias_table",
    "mlp.fc1.{p}",
    "mlp.fc2.{p}",
    "gamma_1",
    "gamma_2",
    // Convolutions of ConvMAE, cross-attention of BootMAE.
    "conv1.{p}",
    "conv2.{p}",
    "c_attn.{m}.{p}",
    // Cross-attention of CAE.
    "norm1_q.{p}",
    "norm1_k.{p}",
    "norm1_v.{p}",
    "attn.q.{p}",
    "attn.k.{p}",
    "attn.v.{p}",
    // CAPI.
    "attn.q_proj.{p}",
    "attn.k_proj.{p}",
    "attn.v_proj.{p}",
    "attn.rope.freqs",
    // CrossMAE.
    "norm0.{p}",
    "self_attn.{m}.{p}",
    "cross_attn.{m}.{p}",
];

/// Maximum number of names used to find a source; of a longer file, a spread-out selection.
const MOST_NAMES: usize = 2000;

/// Patterns of all our names.
static PATTERNS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let in_blocks = BLOCKS
        .iter()
        .flat_map(|blocks| IN_BLOCK.iter().map(move |rest| format!("{blocks}{rest}")));
    let others = OURS.iter().map(|pattern| (*pattern).to_owned());
    others.chain(in_blocks).collect()
});

/// How well a source explains the names in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guess {
    /// The source's name.
    pub source: &'static str,
    /// Number of names that become ours.
    pub known: usize,
    /// Names that the source ignores by rule.
    pub ignored: Vec<String>,
    /// Names that the source does not know.
    pub unknown: Vec<String>,
}

impl Guess {
    /// All sources that explain as many names of `weights` as the best one; empty if nothing is explained.
    ///
    /// Of more than 2000 names a selection is used. Then the first guess alone counts all names.
    pub fn best(weights: &WeightMap) -> Vec<Self> {
        let names: Vec<&str> = weights.names().collect();
        let step = names.len().div_ceil(MOST_NAMES).max(1);
        let some: Vec<&str> = names.iter().copied().step_by(step).collect();
        let guesses = all().map(|(source, rules)| Self::of(source, &rules(), &some));
        let mut guesses: Vec<_> = guesses.filter(|guess| guess.known > 0).collect();
        let least = guesses.iter().map(|guess| guess.unknown.len()).min();
        guesses.retain(|guess| Some(guess.unknown.len()) == least);
        if step > 1
            && let Some(first) = guesses.first_mut()
            && let Some((source, rules)) = all().find(|(source, _)| *source == first.source)
        {
            *first = Self::of(source, &rules(), &names);
        }
        guesses
    }

    /// How well the source called `name` explains `weights`.
    ///
    /// # Errors
    ///
    /// If no such source is known.
    pub fn of_source(name: &str, weights: &WeightMap) -> Result<Self> {
        let source = Source::named(name)?;
        let names: Vec<&str> = weights.names().collect();
        Ok(Self::of(source.name(), source.rules(), &names))
    }

    fn of(source: &'static str, rules: &[Rule], names: &[&str]) -> Self {
        let mut guess = Self {
            source,
            known: 0,
            ignored: Vec::new(),
            unknown: Vec::new(),
        };
        let wrapper = wrapper(rules, names.iter().copied()).len();
        let names: Vec<&str> = names.iter().map(|name| &name[wrapper..]).collect();
        let translated: Vec<_> = names
            .iter()
            .map(|name| rules.iter().find_map(|rule| translate(rule, name)))
            .map(|found| found.unwrap_or(Translated::Kept))
            .collect();
        let ours = |name: &str, translated: &Translated| match translated {
            Translated::Ours(ours) => ours.clone(),
            _ => name.to_owned(),
        };
        let all: Vec<String> = names
            .iter()
            .zip(&translated)
            .map(|(name, to)| ours(name, to))
            .collect();
        let last = all.iter().filter_map(|name| stage(name)).max();
        for ((name, translated), ours) in names.iter().zip(&translated).zip(&all) {
            match translated {
                Translated::Ignored => guess.ignored.push((*name).to_owned()),
                _ if is_ours(ours, last) => guess.known += 1,
                _ => guess.unknown.push((*name).to_owned()),
            }
        }
        guess
    }

    /// Whether every name is explained.
    pub fn is_complete(&self) -> bool {
        self.unknown.is_empty()
    }
}

enum Translated {
    Ours(String),
    Ignored,
    Kept,
}

fn translate(rule: &Rule, name: &str) -> Option<Translated> {
    match rule {
        Rule::Rename { theirs, ours }
        | Rule::Conv1x1 { theirs, ours }
        | Rule::Pointwise { theirs, ours }
        | Rule::Transpose { theirs, ours }
        | Rule::Positions { theirs, ours }
        | Rule::Unsqueeze { theirs, ours, .. } => {
            Some(Translated::Ours(fill(ours, &matches(theirs, name)?)))
        }
        Rule::Stack { theirs, ours } => {
            let holes = theirs.iter().find_map(|theirs| matches(theirs, name))?;
            Some(Translated::Ours(fill(ours, &holes)))
        }
        Rule::Ignore { theirs } => matches(theirs, name).map(|_| Translated::Ignored),
        Rule::Alias { theirs, .. } => {
            let rest = name.strip_prefix(theirs.as_str())?;
            rest.starts_with('.').then_some(Translated::Ignored)
        }
    }
}

/// The stage number in a Swin name.
fn stage(name: &str) -> Option<usize> {
    name.strip_prefix("layers.")?
        .split('.')
        .next()?
        .parse()
        .ok()
}

/// Whether a name is ours; `last` is the last stage of a Swin, which has no patch merging.
fn is_ours(name: &str, last: Option<usize>) -> bool {
    let name = name.strip_prefix("teacher.").unwrap_or(name);
    if matches("layers.{s}.downsample.{m}.{p}", name).is_some() {
        return stage(name) < last;
    }
    // ConvMAE numbers its stages: blocks1, blocks2, blocks3, and patch_embed1 to 4.
    let plain = name.replacen(
        |c: char| c.is_ascii_digit(),
        "",
        usize::from(numbered(name)),
    );
    PATTERNS
        .iter()
        .any(|pattern| matches(pattern, &plain).is_some())
}

fn numbered(name: &str) -> bool {
    let first = name.split('.').next().unwrap_or_default();
    ["blocks", "patch_embed"]
        .iter()
        .any(|stem| first.strip_prefix(stem).is_some_and(|rest| rest.len() == 1))
}

/// Whether a name of `weights`, in our names, belongs to the encoder and not to a decoder, head or teacher.
pub fn is_encoder(weights: &WeightMap, name: &str) -> bool {
    let first = name.split('.').next().unwrap_or_default();
    let stem = first.trim_end_matches(|c: char| c.is_ascii_digit());
    match stem {
        // If the decoder has its own width, the token belongs to the decoder.
        "mask_token" => weights.get("decoder_embed.weight").is_none(),
        "cls_token" | "registers" | "pos_embed" | "patch_embed" | "norm" | "norm_pre" | "proj" => {
            true
        }
        "blocks" | "layers" | "rel_pos_bias" => true,
        _ => false,
    }
}

/// One line about the network of weights in our names; `None` if it is not recognised.
pub fn describe(ours: &WeightMap) -> Option<String> {
    let dims = |name: &str| ours.get(name).map(|tensor| tensor.dims().to_vec());
    let count = |prefix: &str| {
        let numbers = ours
            .names()
            .filter_map(|name| name.strip_prefix(prefix)?.split('.').next());
        numbers.collect::<BTreeSet<_>>().len()
    };
    let patch = dims("patch_embed.proj.weight")?;
    let &[dim, channels, height, _] = patch.as_slice() else {
        return None;
    };
    let mut line = match (count("layers."), count("blocks.")) {
        (0, 0) => return None,
        (0, depth) => format!("ViT: width {dim}, depth {depth}, patches of {height} pixels"),
        (stages, _) => {
            let depths =
                (0..stages).map(|stage| count(&format!("layers.{stage}.blocks.")).to_string());
            let depths = depths.collect::<Vec<_>>().join(", ");
            format!("Swin: width {dim}, depths {depths}, patches of {height} pixels")
        }
    };
    line += &format!(", {channels} channels");
    if let Some(&[_, rows, _]) = dims("pos_embed").as_deref() {
        let side = (rows - 1).isqrt();
        match side * side + 1 == rows {
            true => {
                line += &format!(
                    ", positions of {side}x{side} patches (images of {} pixels)",
                    side * height
                )
            }
            false => line += &format!(", {rows} positions"),
        }
    }
    if let Some(&[width, _]) = dims("decoder_embed.weight").as_deref() {
        line += &format!(
            "; decoder: width {width}, depth {}",
            count("decoder_blocks.")
        );
    }
    if let Some(outputs) = dims("decoder_pred.weight").and_then(|dims| dims.first().copied()) {
        line += &format!("; head of {outputs} outputs");
    }
    Some(line)
}

/// The best guesses and the network, for `weights` with the names of their file.
pub fn look(weights: &WeightMap) -> (Vec<Guess>, Option<String>) {
    let guesses = Guess::best(weights);
    let ours = guesses.first().and_then(|guess| {
        let source = Source::named(guess.source).ok()?;
        source.import(weights).ok()
    });
    (guesses, ours.as_ref().and_then(describe))
}
