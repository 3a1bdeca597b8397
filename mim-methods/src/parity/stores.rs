//! The weights of a case: a student and its teachers.
//!
//! Names of a teacher's entries begin with the name of its store (`teacher.blocks.0.norm1.weight`), whether the case
//! keeps them under `teacher.` or a [`Source`](mim_core::weights::Source) gives them that name.

use std::collections::BTreeMap;

use candle_core::Tensor;
use mim_core::Method;
use mim_core::params::{Kind, ParamStore};
use mim_core::weights::{Source, WeightMap};

use super::{Case, Problem, Result};

/// The weights of a method, and their names in a case.
#[derive(Clone, Copy)]
pub(super) struct State<'a> {
    pub(super) case: &'a Case,
    pub(super) method: &'a dyn Method,
    pub(super) source: &'a Source,
}

/// The store at the start of an entry's name; nothing for the student.
fn prefix(store: &str) -> String {
    match store {
        "student" => String::new(),
        name => format!("{name}."),
    }
}

impl State<'_> {
    /// The weights that are trained.
    pub(super) fn student(&self) -> Result<ParamStore> {
        self.store("student")
    }

    /// The weights called `name`.
    pub(super) fn store(&self, name: &str) -> Result<ParamStore> {
        let stores = self.method.stores();
        let found = stores.into_iter().find(|(known, _)| *known == name);
        let found = found.map(|(_, store)| store.clone());
        found.ok_or_else(|| Problem::unknown(format!("a method without {name}")))
    }

    fn stores(&self) -> Vec<(String, ParamStore)> {
        let stores = self.method.stores().into_iter();
        stores
            .map(|(name, store)| (prefix(name), store.clone()))
            .collect()
    }

    /// Sets the recorded parameters.
    ///
    /// Teachers take from the student what the case keeps only once (a position table). Parts of a teacher that our
    /// method lacks (a decoder that is never run) are left out. A frozen network is not a store of the method: it was
    /// loaded when the method was built. Buffers may be among the inputs (centres). A trajectory that records none
    /// begins with those of a new teacher.
    pub(super) fn load(&self) -> Result<()> {
        let mut all = self.source.import(&self.case.group("param."))?;
        let stores = self.stores();
        if stores.len() > 1 {
            let teacher = self.source.import(&self.case.group("teacher."))?;
            for (name, tensor) in teacher.iter() {
                all.insert(format!("teacher.{name}"), tensor.clone());
            }
        }
        let of_teacher = |name: &str| {
            stores
                .iter()
                .any(|(prefix, _)| !prefix.is_empty() && name.starts_with(prefix))
        };
        let student: WeightMap = all
            .iter()
            .filter(|(name, _)| !of_teacher(name))
            .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
            .collect();
        for (prefix, store) in &stores {
            if prefix.is_empty() {
                store.load(&student)?;
                continue;
            }
            let mut own = all.strip_prefix(prefix);
            let begins = self.case.kind() == "trajectory";
            for ((name, kind), (_, var)) in store.names().into_iter().zip(store.vars()) {
                let other = match kind {
                    Kind::Buffer if begins => Some(var.as_detached_tensor().copy()?),
                    Kind::Buffer => {
                        let input = self.case.tensor(&format!("input.{name}"));
                        student.get(&name).or(input).cloned()
                    }
                    _ => student.get(&name).cloned(),
                };
                if let (None, Some(other)) = (own.get(&name), other) {
                    own.insert(name, other);
                }
            }
            store.load_allowing(&own, |name| student.get(name).is_some())?;
        }
        Ok(())
    }

    /// All values of all stores, by their names.
    pub(super) fn all_theirs(&self) -> Result<WeightMap> {
        self.theirs(self.entries(|_| true).into_iter())
    }

    /// Whether one of their names is state that the forward pass changes.
    pub(super) fn buffer_names(&self) -> Result<Vec<String>> {
        let buffers = self.theirs(self.entries(|kind| kind == Kind::Buffer).into_iter())?;
        Ok(buffers.names().map(str::to_owned).collect())
    }

    fn entries(&self, pick: impl Fn(Kind) -> bool) -> Vec<(String, Tensor)> {
        let mut entries = Vec::new();
        for (prefix, store) in self.stores() {
            for ((name, kind), (_, var)) in store.names().into_iter().zip(store.vars()) {
                if pick(kind) {
                    entries.push((format!("{prefix}{name}"), var.as_detached_tensor()));
                }
            }
        }
        entries
    }

    /// A copy of all buffers, by our names.
    pub(super) fn buffers(&self) -> Result<BTreeMap<String, Tensor>> {
        let entries = self.entries(|kind| kind == Kind::Buffer).into_iter();
        entries
            .map(|(name, value)| Ok((name, value.copy()?)))
            .collect()
    }

    /// Restores the buffers from copies.
    pub(super) fn restore(&self, buffers: &BTreeMap<String, Tensor>) -> Result<()> {
        for (prefix, store) in self.stores() {
            for (name, var) in store.vars() {
                if let Some(value) = buffers.get(&format!("{prefix}{name}")) {
                    var.set(value)?;
                }
            }
        }
        Ok(())
    }

    /// Our values, by their names.
    pub(super) fn theirs(&self, ours: impl Iterator<Item = (String, Tensor)>) -> Result<WeightMap> {
        let mut theirs = WeightMap::default();
        let mut teachers = WeightMap::default();
        let kept = self.case.group("teacher.");
        let mut others = WeightMap::default();
        for (name, tensor) in ours {
            // A case may keep a teacher under `teacher.` although files of the source use another name.
            if let Some(own) = name.strip_prefix("teacher.") {
                let one = WeightMap::from_iter([(own.to_owned(), tensor.clone())]);
                let spelt = self.source.export(&one)?;
                if spelt.names().all(|name| kept.get(name).is_some()) {
                    for (name, tensor) in spelt.iter() {
                        theirs.insert(format!("teacher.{name}"), tensor.clone());
                    }
                    continue;
                }
            }
            others.insert(name, tensor);
        }
        for (name, tensor) in self.source.export(&others)?.iter() {
            // A teacher that no rule renames has the student's names.
            match name.strip_prefix("teacher.") {
                Some(name) => teachers.insert(name, tensor.clone()),
                None => theirs.insert(name, tensor.clone()),
            }
        }
        for (name, tensor) in self.source.export(&teachers)?.iter() {
            theirs.insert(format!("teacher.{name}"), tensor.clone());
        }
        Ok(theirs)
    }
}
