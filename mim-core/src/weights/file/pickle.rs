//! A reader of pickles that builds a tree and runs nothing.
//!
//! All opcodes of protocols 0 to 5 that make data are understood. Calls are kept as they are
//! written ([`Node::Made`]): the caller knows the few that stand for tensors. Nodes live in one list and name
//! each other by place, so that neither depth nor cycles can exhaust the stack.

use std::collections::HashMap;

/// The place of a node in its [`Tree`].
pub(super) type Id = usize;

/// A value of a pickle.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// A whole number that fits.
    Int(i64),
    /// Text.
    Text(String),
    /// A tuple or list.
    Sequence(Vec<Id>),
    /// A dict, an `OrderedDict` or a `defaultdict`.
    Dict(Vec<(Id, Id)>),
    /// A class or function, as `module.name`.
    Global(String),
    /// An object: what makes it, with which arguments.
    Made { by: Id, with: Id },
    /// What the file around the pickle holds (a storage).
    Persistent(Id),
    /// None, true and false, fractions, bytes, huge numbers, sets: of no use here.
    Other,
}

/// A pickle's values.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    /// The value of the whole pickle.
    pub(super) root: Id,
}

impl Tree {
    /// Reads the first pickle in `bytes`.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and at which byte.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut machine = Machine {
            bytes,
            at: 0,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        let done = machine.run();
        let root =
            done.map_err(|what| format!("the pickle is damaged at byte {}: {what}", machine.at))?;
        Ok(Self {
            nodes: machine.nodes,
            root,
        })
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

    /// The entries of the dict at `id` whose keys are text; of a key that occurs twice, the last one.
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

type Outcome<T> = Result<T, String>;

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<usize, Id>,
}

impl Machine<'_> {
    fn run(&mut self) -> Outcome<Id> {
        loop {
            let code = self.take(1)?[0];
            if code == b'.' {
                return self.pop();
            }
            let known = self.value(code)? || self.container(code)? || self.object(code)?;
            if !known {
                return Err(format!("there is no operation {code:#04x}"));
            }
        }
    }

    fn take(&mut self, count: usize) -> Outcome<&[u8]> {
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or("it is cut short")?;
        self.at += count;
        Ok(taken)
    }

    /// A little-endian number of up to 8 bytes.
    fn number(&mut self, bytes: usize) -> Outcome<u64> {
        let taken = self.take(bytes)?.iter().rev();
        Ok(taken.fold(0u64, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    fn length(&mut self, bytes: usize) -> Outcome<usize> {
        usize::try_from(self.number(bytes)?).map_err(|_| "a length does not fit".to_owned())
    }

    /// The text up to the end of the line.
    fn line(&mut self) -> Outcome<String> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let end = rest.iter().position(|byte| *byte == b'\n');
        let end = end.ok_or("it is cut short")?;
        self.at += end + 1;
        Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
    }

    fn text(&mut self, length_bytes: usize) -> Outcome<Node> {
        let length = self.length(length_bytes)?;
        Ok(Node::Text(
            String::from_utf8_lossy(self.take(length)?).into_owned(),
        ))
    }

    fn skip(&mut self, length_bytes: usize) -> Outcome<Node> {
        let length = self.length(length_bytes)?;
        self.take(length)?;
        Ok(Node::Other)
    }

    fn push(&mut self, node: Node) {
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
    }

    fn pop(&mut self) -> Outcome<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("a value is missing".to_owned());
        }
        self.stack
            .pop()
            .ok_or_else(|| "a value is missing".to_owned())
    }

    fn top(&self) -> Outcome<Id> {
        self.stack
            .last()
            .copied()
            .ok_or_else(|| "a value is missing".to_owned())
    }

    /// All values since the last mark.
    fn marked(&mut self) -> Outcome<Vec<Id>> {
        let mark = self.marks.pop().ok_or("a mark is missing")?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn value(&mut self, code: u8) -> Outcome<bool> {
        let node = match code {
            b'N' | 0x88 | 0x89 => Node::Other,
            b'F' => {
                self.line()?;
                Node::Other
            }
            b'G' => {
                self.take(8)?;
                Node::Other
            }
            b'I' | b'L' => {
                let line = self.line()?;
                whole(line.trim_end_matches('L'))
            }
            #[expect(clippy::cast_possible_truncation, reason = "four bytes")]
            b'J' => Node::Int(i64::from((self.number(4)? as u32).cast_signed())),
            b'K' => Node::Int(self.number(1)?.cast_signed()),
            b'M' => Node::Int(self.number(2)?.cast_signed()),
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            b'S' => {
                let line = self.line()?;
                Node::Text(line.trim_matches(['\'', '"']).to_owned())
            }
            b'V' => Node::Text(self.line()?),
            b'U' | 0x8c => self.text(1)?,
            b'T' | b'X' => self.text(4)?,
            0x8d => self.text(8)?,
            b'C' => self.skip(1)?,
            b'B' => self.skip(4)?,
            0x8e | 0x96 => self.skip(8)?,
            _ => return Ok(false),
        };
        self.push(node);
        Ok(true)
    }

    /// A number of any length in two's complement.
    fn long(&mut self, length_bytes: usize) -> Outcome<Node> {
        let length = self.length(length_bytes)?;
        if length > 8 {
            self.take(length)?;
            return Ok(Node::Other);
        }
        let value = self.number(length)?;
        let unused = 64 - 8 * u32::try_from(length).unwrap_or(8);
        Ok(match length {
            0 => Node::Int(0),
            _ => Node::Int((value << unused).cast_signed() >> unused),
        })
    }

    fn container(&mut self, code: u8) -> Outcome<bool> {
        match code {
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                self.pop()?;
            }
            b'1' => {
                self.marked()?;
            }
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b')' | b']' => self.push(Node::Sequence(Vec::new())),
            b'}' => self.push(Node::Dict(Vec::new())),
            0x8f => self.push(Node::Other),
            b't' | b'l' => {
                let items = self.marked()?;
                self.push(Node::Sequence(items));
            }
            0x85..=0x87 => {
                let mut items = Vec::new();
                for _ in 0x84..code {
                    items.push(self.pop()?);
                }
                items.reverse();
                self.push(Node::Sequence(items));
            }
            b'd' => {
                let items = self.marked()?;
                self.push(Node::Dict(pairs(&items)?));
            }
            0x91 => {
                self.marked()?;
                self.push(Node::Other);
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.marked()?;
                self.extend(items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(&[key, value])?;
            }
            b'u' => {
                let items = self.marked()?;
                self.set(&items)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Appends to the list on top; other collections are of no use here.
    fn extend(&mut self, items: Vec<Id>) -> Outcome<()> {
        let top = self.top()?;
        if let Node::Sequence(list) = &mut self.nodes[top] {
            list.extend(items);
        }
        Ok(())
    }

    /// Sets entries of the dict on top; an object with entries (a counter) keeps none.
    fn set(&mut self, items: &[Id]) -> Outcome<()> {
        let (top, more) = (self.top()?, pairs(items)?);
        if let Node::Dict(entries) = &mut self.nodes[top] {
            entries.extend(more);
        }
        Ok(())
    }

    fn object(&mut self, code: u8) -> Outcome<bool> {
        match code {
            0x80 => {
                self.take(1)?;
            }
            0x95 => {
                self.take(8)?;
            }
            b'p' | b'q' | b'r' | 0x94 => {
                let place = match code {
                    b'p' => self.place()?,
                    b'q' => self.length(1)?,
                    b'r' => self.length(4)?,
                    _ => self.memo.len(),
                };
                let top = self.top()?;
                self.memo.insert(place, top);
            }
            b'g' | b'h' | b'j' => {
                let place = match code {
                    b'g' => self.place()?,
                    b'h' => self.length(1)?,
                    _ => self.length(4)?,
                };
                let kept = self.memo.get(&place).copied();
                self.stack
                    .push(kept.ok_or("it names a value that is not there")?);
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Node::Global(format!("{module}.{name}")));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let text = |id: Id| match &self.nodes[id] {
                    Node::Text(text) => text.clone(),
                    _ => "?".to_owned(),
                };
                let global = format!("{}.{}", text(module), text(name));
                self.push(Node::Global(global));
            }
            b'P' => {
                let line = self.line()?;
                self.push(Node::Text(line));
                let id = self.pop()?;
                self.push(Node::Persistent(id));
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id));
            }
            b'R' | 0x81 => {
                let (with, by) = (self.pop()?, self.pop()?);
                self.make(by, with);
            }
            0x92 => {
                self.pop()?;
                let (with, by) = (self.pop()?, self.pop()?);
                self.make(by, with);
            }
            b'b' => {
                self.pop()?;
                self.top()?;
            }
            b'i' => {
                let class = (self.line()?, self.line()?);
                let items = self.marked()?;
                self.push(Node::Global(format!("{}.{}", class.0, class.1)));
                let by = self.pop()?;
                self.push(Node::Sequence(items));
                let with = self.pop()?;
                self.make(by, with);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn place(&mut self) -> Outcome<usize> {
        let line = self.line()?;
        line.trim()
            .parse()
            .map_err(|_| format!("`{line}` is no number"))
    }

    fn make(&mut self, by: Id, with: Id) {
        let dict = match &self.nodes[by] {
            Node::Global(name) => matches!(
                name.as_str(),
                "collections.OrderedDict" | "collections.defaultdict" | "builtins.dict"
            ),
            _ => false,
        };
        self.push(match dict {
            true => Node::Dict(Vec::new()),
            false => Node::Made { by, with },
        });
    }
}

fn whole(text: &str) -> Node {
    // In protocol 0 the truth values are `01` and `00`.
    text.trim().parse().map_or(Node::Other, Node::Int)
}

fn pairs(items: &[Id]) -> Outcome<Vec<(Id, Id)>> {
    match items.len() % 2 {
        0 => Ok(items.chunks(2).map(|pair| (pair[0], pair[1])).collect()),
        _ => Err("a key has no value".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dicts_numbers_and_text_of_all_protocols() {
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
    fn huge_numbers_and_deep_nests_are_no_problem() {
        // 2**70, and 300000 tuples in each other.
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
    fn damage_is_named_with_its_place() {
        for (bytes, part) in [
            (&b""[..], "cut short"),
            (b"\x80\x02", "cut short"),
            (b"X\xff\xff\xff\xffab", "cut short"),
            (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffab", "cut short"),
            (b".", "a value is missing"),
            (b"t.", "a mark is missing"),
            (b"}(K\x01u.", "no value"),
            (b"h\x07.", "not there"),
            (b"\xff.", "no operation 0xff"),
        ] {
            let error = Tree::read(bytes).unwrap_err();
            assert!(error.contains(part) && error.contains("at byte"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Tree::read(&bytes);
        }

        /// Bytes that are mostly operations get further than any bytes.
        #[test]
        fn any_operations_end_without_panic(
            codes in proptest::collection::vec(
                proptest::sample::select(&b"(.012)]}tldaesuqhrjQRb\x81\x85\x86\x87\x90\x91\x93\x94K\x01J"[..]), 0..300),
        ) {
            let _ = Tree::read(&codes);
        }
    }
}
