//! What a store holds.

use candle_core::Var;

use super::{Kind, ParamStore};

impl ParamStore {
    /// All names with their kinds, in order.
    pub fn names(&self) -> Vec<(String, Kind)> {
        self.table()
            .entries
            .iter()
            .map(|entry| (entry.name.clone(), entry.kind))
            .collect()
    }

    /// All variables with their names, in order.
    pub fn vars(&self) -> Vec<(String, Var)> {
        self.table()
            .entries
            .iter()
            .map(|entry| (entry.name.clone(), entry.var.clone()))
            .collect()
    }

    /// Trainable variables, in order; none for a teacher.
    pub fn trainable(&self) -> Vec<(String, Var)> {
        self.of_kind(|kind| kind == Kind::Trainable)
    }

    /// Parameters, trainable or frozen, without buffers.
    pub fn parameters(&self) -> Vec<(String, Var)> {
        self.of_kind(|kind| kind != Kind::Buffer)
    }

    fn of_kind(&self, pick: impl Fn(Kind) -> bool) -> Vec<(String, Var)> {
        let table = self.table();
        let picked = table.entries.iter().filter(|entry| pick(entry.kind));
        picked
            .map(|entry| (entry.name.clone(), entry.var.clone()))
            .collect()
    }

    /// The variable called `name`.
    pub fn var(&self, name: &str) -> Option<Var> {
        let table = self.table();
        table
            .index
            .get(name)
            .map(|&at| table.entries[at].var.clone())
    }

    /// Number of trained values.
    pub fn trainable_values(&self) -> usize {
        self.trainable()
            .iter()
            .map(|(_, var)| var.elem_count())
            .sum()
    }
}
