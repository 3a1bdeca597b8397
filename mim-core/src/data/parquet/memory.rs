//! Row groups kept in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::parquet::data_type::ByteArray;

use crate::Result;

/// Images of a group, by row; none where the row has none.
pub(super) type Rows = Vec<Option<ByteArray>>;

/// The groups used last, as many as a number of bytes allows.
#[derive(Debug)]
pub(super) struct GroupMemory {
    budget: u64,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    held: HashMap<usize, Slot>,
    bytes: u64,
    uses: u64,
}

#[derive(Debug)]
struct Slot {
    /// Filled by the first who wants it, while others who want it wait.
    rows: Arc<Mutex<Option<Arc<Rows>>>>,
    bytes: u64,
    last_use: u64,
}

impl GroupMemory {
    pub(super) fn new(budget: u64) -> Self {
        Self {
            budget,
            slots: Mutex::default(),
        }
    }

    /// Whether groups of this size may stay: beside one that fills everything no other could.
    pub(super) fn has_room_for(&self, bytes: u64) -> bool {
        bytes <= self.budget / 2
    }

    /// Group `key` of about `bytes` bytes, by `load` unless it is there.
    pub(super) fn get(
        &self,
        key: usize,
        bytes: u64,
        load: impl FnOnce() -> Result<Rows>,
    ) -> Result<Arc<Rows>> {
        let rows = self.slot(key, bytes);
        let mut rows = lock(&rows);
        if let Some(rows) = &*rows {
            return Ok(rows.clone());
        }
        let loaded = Arc::new(load()?);
        *rows = Some(loaded.clone());
        Ok(loaded)
    }

    fn slot(&self, key: usize, bytes: u64) -> Arc<Mutex<Option<Arc<Rows>>>> {
        let mut slots = lock(&self.slots);
        slots.uses += 1;
        let now = slots.uses;
        if let Some(slot) = slots.held.get_mut(&key) {
            slot.last_use = now;
            return slot.rows.clone();
        }
        while slots.bytes + bytes > self.budget {
            let oldest = slots.held.iter().min_by_key(|(_, slot)| slot.last_use);
            let Some(oldest) = oldest.map(|(key, _)| *key) else {
                break;
            };
            let dropped = slots.held.remove(&oldest).map_or(0, |slot| slot.bytes);
            slots.bytes -= dropped;
        }
        slots.bytes += bytes;
        let slot = Slot {
            rows: Arc::default(),
            bytes,
            last_use: now,
        };
        slots.held.entry(key).or_insert(slot).rows.clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_used_last_stay() {
        let memory = GroupMemory::new(10);
        let loads = std::cell::RefCell::new(vec![]);
        let get = |key| {
            let load = || {
                loads.borrow_mut().push(key);
                Ok(vec![None; key])
            };
            assert_eq!(memory.get(key, 4, load).unwrap().len(), key);
        };
        for key in [1, 2, 1, 3, 1, 2] {
            get(key);
        }
        assert_eq!(*loads.borrow(), [1, 2, 3, 2]);
        assert!(memory.has_room_for(5) && !memory.has_room_for(6));
    }

    #[test]
    fn a_group_that_failed_is_read_again() {
        let memory = GroupMemory::new(10);
        let failing = memory.get(0, 1, || Err(crate::Error::unsupported("a", "b", "c")));
        assert!(failing.is_err());
        assert!(memory.get(0, 1, || Ok(vec![])).is_ok());
    }
}
