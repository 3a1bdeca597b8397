//! A pickle reader that builds a tree and runs no code.
//!
//! It supports all opcodes of protocols 0 to 5 that create data. Calls are only recorded
//! ([`Node::Made`]); the caller interprets the few that create tensors. Nodes are in one list and refer to
//! each other by index, so neither depth nor cycles can exhaust the stack. Their number is limited, so a
//! small file cannot exhaust memory.

mod machine;
mod operations;

use std::collections::HashMap;

use machine::Machine;

/// Index of a node in its [`Tree`].
pub(super) type Id = usize;

/// A value of a pickle.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// An integer that fits.
    Int(i64),
    /// Text.
    Text(String),
    /// A tuple or list.
    Sequence(Vec<Id>),
    /// A dict, an `OrderedDict` or a `defaultdict`.
    Dict(Vec<(Id, Id)>),
    /// A class or function, as `module.name`.
    Global(String),
    /// An object: its constructor and the arguments.
    Made { by: Id, with: Id },
    /// A reference to data outside the pickle (a storage).
    Persistent(Id),
    /// None, booleans, floats, bytes, huge integers, sets: not needed.
    Other,
}

/// The values of a pickle.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    /// The result of the pickle.
    pub(super) root: Id,
}

impl Tree {
    /// Reads the first pickle in `bytes`.
    ///
    /// # Errors
    ///
    /// Describes the problem and its byte offset.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let (nodes, root) = Machine::run(bytes)?;
        Ok(Self { nodes, root })
    }

    /// The value at `id`.
    pub(super) fn get(&self, id: Id) -> &Node {
        self.nodes.get(id).unwrap_or(&Node::Other)
    }

    /// The text at `id`.
    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The class or function at `id`.
    pub(super) fn global(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Node::Global(name) => Some(name),
            _ => None,
        }
    }

    /// The entries of the tuple or list at `id`.
    pub(super) fn sequence(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Node::Sequence(items) => Some(items),
            _ => None,
        }
    }

    /// The number at `id`, if it is not negative.
    pub(super) fn count(&self, id: Id) -> Option<usize> {
        match self.get(id) {
            Node::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The entries of the dict at `id` with text keys; for a repeated key, the last one.
    pub(super) fn entries(&self, id: Id) -> Option<Vec<(&str, Id)>> {
        let Node::Dict(pairs) = self.get(id) else {
            return None;
        };
        let mut entries: Vec<(&str, Id)> = Vec::with_capacity(pairs.len());
        let mut places: HashMap<&str, usize> = HashMap::new();
        for (key, value) in pairs {
            let Some(key) = self.text(*key) else { continue };
            match places.get(key) {
                Some(&place) => entries[place].1 = *value,
                None => {
                    places.insert(key, entries.len());
                    entries.push((key, *value));
                }
            }
        }
        Some(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_dicts_numbers_and_text_of_all_protocols() {
        // {'a': -2, 'b': (1, 'x')} in protocols 0, 2 and 4.
        let cases: [&[u8]; 3] = [
            b"(dp0\nVa\np1\nI-2\nsVb\np2\n(I1\nVx\np3\ntp4\ns.",
            b"\x80\x02}q\x00(X\x01\x00\x00\x00aJ\xfe\xff\xff\xffX\x01\x00\x00\x00bK\x01X\x01\x00\x00\x00x\x86u.",
            b"\x80\x04\x95\x18\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94J\xfe\xff\xff\xff\x8c\x01b\x94K\x01\x8c\x01x\x94\x86\x94u.",
        ];
        for bytes in cases {
            let tree = Tree::read(bytes).unwrap();
            let entries = tree.entries(tree.root).unwrap();
            assert_eq!(entries.len(), 2);
            assert_eq!(
                (entries[0].0, tree.get(entries[0].1)),
                ("a", &Node::Int(-2))
            );
            let pair = tree.sequence(entries[1].1).unwrap();
            assert_eq!(
                (tree.count(pair[0]), tree.text(pair[1])),
                (Some(1), Some("x"))
            );
        }
    }

    #[test]
    fn reads_huge_numbers_and_deep_nesting() {
        // 2**70, and 300000 nested tuples.
        let tree = Tree::read(b"\x80\x02\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x40.").unwrap();
        assert_eq!(tree.get(tree.root), &Node::Other);
        let tree = Tree::read(b"\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x80.").unwrap();
        assert_eq!(tree.get(tree.root), &Node::Int(i64::MIN));
        let mut deep = vec![b')'];
        deep.resize(300_000, 0x85);
        deep.push(b'.');
        Tree::read(&deep).unwrap();
    }

    #[test]
    fn damage_is_reported_with_its_offset() {
        for (bytes, part) in [
            (&b""[..], "cut short"),
            (b"\x80\x02", "cut short"),
            (b"X\xff\xff\xff\xffab", "cut short"),
            (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffab", "cut short"),
            (b".", "a value is missing"),
            (b"t.", "a mark is missing"),
            (b"}(K\x01u.", "no value"),
            (b"h\x07.", "a missing value"),
            (b"\xff.", "unknown operation 0xff"),
        ] {
            let error = Tree::read(bytes).unwrap_err();
            assert!(error.contains(part) && error.contains("at byte"), "{error}");
        }
    }

    #[test]
    fn small_pickles_cannot_exhaust_memory() {
        // Endless empty tuples; a class with a name of 64 kB, created again and again.
        let error = Tree::read(&vec![b')'; machine::MOST + 2]).unwrap_err();
        assert!(error.contains("values"), "{error}");
        let mut names = b"X\x00\x00\x01\x00".to_vec();
        names.extend([b'a'; 1 << 16]);
        names.extend(b"q\x00".iter().chain(&b"h\x00h\x00\x93".repeat(100)));
        names.push(b'.');
        let tree = Tree::read(&names).unwrap();
        assert_eq!(tree.get(tree.root), &Node::Other);
    }

    proptest! {
        #[test]
        fn any_bytes_end_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Tree::read(&bytes);
        }

        /// Bytes that are mostly operations get further than random bytes.
        #[test]
        fn any_operations_end_without_panic(
            codes in proptest::collection::vec(
                proptest::sample::select(&b"(.012)]}tldaesuqhrjQRb\x81\x85\x86\x87\x90\x91\x93\x94K\x01J"[..]), 0..300),
        ) {
            let _ = Tree::read(&codes);
        }
    }
}
