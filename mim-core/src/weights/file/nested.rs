//! Finds the weights in a checkpoint's pickle.

use super::pickle::{Id, Node, Tree};
use super::torch::{Stored, stored};

/// Usual keys of weights, tried in this order, also nested two levels deep.
const KEYS: [&str; 6] = [
    "model",
    "state_dict",
    "teacher",
    "student",
    "module",
    "model_ema",
];
/// The key that means all dicts together, with their keys joined by dots.
pub(super) const ALL: &str = ".";
/// Limit on entries, above any checkpoint: a pickle can name one dict many times.
const MOST: usize = 1_000_000;
/// Limit on the length of a name, above any tensor: nested dicts repeat it.
const LONGEST: usize = 4096;

/// The weights in a pickle.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The key that holds them.
    pub(super) key: Option<String>,
    /// Other keys with weights.
    pub(super) others: Vec<String>,
    pub(super) tensors: Vec<(String, Stored)>,
    /// Skipped entries, with the reason.
    pub(super) skipped: Vec<String>,
    /// Number of entries visited.
    seen: usize,
}

/// The weights under `key`, or without a key under the first usual key that has any.
///
/// # Errors
///
/// Describes what the file holds instead of weights.
pub(super) fn find(tree: &Tree, key: Option<&str>) -> Result<Found, String> {
    if let Node::Made { by, .. } = tree.get(tree.root) {
        return Err(match stored(tree, tree.root) {
            Some(_) => "it holds one tensor without a name".to_owned(),
            None => format!(
                "it is a whole module ({}), not a file of weights",
                tree.global(*by).unwrap_or("of an unknown class")
            ),
        });
    }
    let mut found = Found::default();
    if key == Some(ALL) {
        collect(tree, tree.root, "", 6, &mut found)?;
        found.key = key.map(str::to_owned);
    } else {
        let mut places = match key {
            Some(key) => vec![(key.to_owned(), walk(tree, key)?)],
            None => candidates(tree),
        }
        .into_iter();
        let (key, id) = match places.next() {
            Some((key, id)) => (Some(key), id),
            None => (None, tree.root),
        };
        found.others = places.map(|(key, _)| key).collect();
        collect(tree, id, "", 0, &mut found)?;
        found.key = key;
    }
    match found.tensors.is_empty() {
        true => Err(format!(
            "there are no tensors {}: the file holds {}",
            match &found.key {
                Some(key) => format!("under `{key}`"),
                None => "at its top nor under the usual keys".to_owned(),
            },
            contents(tree, tree.root)
        )),
        false => Ok(found),
    }
}

/// All places under one or two usual keys that hold tensors.
fn candidates(tree: &Tree) -> Vec<(String, Id)> {
    let below = |id: Id| -> Vec<(&str, Id)> {
        let entries = tree.entries(id).unwrap_or_default();
        let usual = |key: &&str| entries.iter().find(|(name, _)| name == key).copied();
        KEYS.iter().filter_map(usual).collect()
    };
    let mut places = Vec::new();
    for (outer, id) in below(tree.root) {
        if has_tensors(tree, id) {
            places.push((outer.to_owned(), id));
            continue;
        }
        let inner = below(id)
            .into_iter()
            .filter(|(_, id)| has_tensors(tree, *id));
        places.extend(inner.map(|(inner, id)| (format!("{outer}.{inner}"), id)));
    }
    places
}

fn has_tensors(tree: &Tree, id: Id) -> bool {
    let entries = tree.entries(id).unwrap_or_default();
    entries.iter().any(|(_, id)| stored(tree, *id).is_some())
}

/// The dict at a key, or at several keys joined by dots.
fn walk(tree: &Tree, key: &str) -> Result<Id, String> {
    let (mut id, mut rest) = (tree.root, key);
    while !rest.is_empty() {
        let entries = tree.entries(id).unwrap_or_default();
        let next = entries.iter().find_map(|(name, id)| {
            let left = rest.strip_prefix(name)?;
            let left = if left.is_empty() {
                left
            } else {
                left.strip_prefix('.')?
            };
            (!name.is_empty()).then_some((*id, left))
        });
        (id, rest) = next.ok_or_else(|| {
            let held = contents(tree, tree.root);
            format!("there is no key `{key}`: the file holds {held}")
        })?;
    }
    Ok(id)
}

/// Collects the tensors of a dict, and of `deeper` nested levels.
fn collect(
    tree: &Tree,
    id: Id,
    prefix: &str,
    deeper: usize,
    found: &mut Found,
) -> Result<(), String> {
    if let Node::Dict(pairs) = tree.get(id) {
        found.seen = found.seen.saturating_add(pairs.len());
    }
    if found.seen > MOST {
        return Err(format!("it has more than {MOST} entries"));
    }
    for (name, id) in tree.entries(id).unwrap_or_default() {
        if prefix.len() + name.len() > LONGEST {
            return Err(format!("a name has more than {LONGEST} bytes"));
        }
        let name = format!("{prefix}{name}");
        match stored(tree, id) {
            Some(Ok(stored)) => found.tensors.push((name, stored)),
            Some(Err(what)) => found.skipped.push(format!("{name}: {what}")),
            None if deeper > 0 && matches!(tree.get(id), Node::Dict(_)) => {
                collect(tree, id, &format!("{name}."), deeper - 1, found)?;
            }
            None => found
                .skipped
                .push(format!("{name}: it is {}", kind(tree, id))),
        }
    }
    Ok(())
}

/// The kind of a value, for messages.
fn kind(tree: &Tree, id: Id) -> String {
    match tree.get(id) {
        Node::Dict(entries) => format!("a dict of {}", entries.len()),
        Node::Sequence(items) => format!("a list of {}", items.len()),
        Node::Made { .. } if stored(tree, id).is_some() => "a tensor".to_owned(),
        Node::Made { by, .. } => format!("an object ({})", tree.global(*by).unwrap_or("?")),
        Node::Int(_) => "a number".to_owned(),
        Node::Text(_) => "text".to_owned(),
        _ => "not a tensor".to_owned(),
    }
}

/// The first entries of a value, for messages.
fn contents(tree: &Tree, id: Id) -> String {
    let Some(entries) = tree.entries(id) else {
        return kind(tree, id);
    };
    let shown = entries.iter().take(12);
    let mut shown: Vec<_> = shown
        .map(|(name, id)| {
            let name: String = name.chars().take(80).collect();
            format!("`{name}` ({})", kind(tree, *id))
        })
        .collect();
    if entries.len() > shown.len() {
        shown.push("...".to_owned());
    }
    match shown.as_slice() {
        [] => "an empty dict".to_owned(),
        shown => shown.join(", "),
    }
}
