//! Prefixes that wrappers of PyTorch add to names.

use super::Rule;

/// DDP and data parallelism, `torch.compile`, and modules of Lightning.
const WRAPPERS: [&str; 3] = ["module.", "_orig_mod.", "model."];

/// The prefix that wrappers have added to all of `names`, in any order and number; empty if there is none. Prefixes
/// that `rules` begin with belong to the names.
pub(in crate::weights) fn wrapper<'a>(
    rules: &[Rule],
    names: impl Iterator<Item = &'a str>,
) -> String {
    let mut names: Vec<&str> = names.collect();
    let mut prefix = String::new();
    let is_wrapper = |next: &&str, names: &[&str]| {
        let inner = |name: &&str| name.strip_prefix(next).is_some_and(|name| !name.is_empty());
        let own = |rule: &Rule| rule.theirs().iter().any(|theirs| theirs.starts_with(next));
        !names.is_empty() && names.iter().all(inner) && !rules.iter().any(own)
    };
    while let Some(next) = WRAPPERS.iter().find(|next| is_wrapper(next, &names)) {
        prefix += next;
        for name in &mut names {
            *name = &name[next.len()..];
        }
    }
    prefix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_come_off_in_any_order_and_own_prefixes_stay() {
        let of = |rules: &[Rule], names: &[&str]| wrapper(rules, names.iter().copied());
        assert_eq!(
            of(&[], &["module._orig_mod.a.b", "module._orig_mod.c"]),
            "module._orig_mod."
        );
        assert_eq!(
            of(&[], &["_orig_mod.module.model.a"]),
            "_orig_mod.module.model."
        );
        assert_eq!(of(&[], &["module.a", "b"]), "");
        assert_eq!(of(&[], &["model.", "model.a"]), "");
        assert_eq!(of(&[], &[]), "");
        let own = [Rule::rename("module.backbone.{p}", "{p}")];
        assert_eq!(of(&own, &["_orig_mod.module.backbone.a"]), "_orig_mod.");
    }
}
