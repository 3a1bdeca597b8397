//! Re-initialises parameters.

use super::store::draw;
use super::{InitScheme, Kind, ParamStore};
use crate::Result;

impl ParamStore {
    /// Re-initialises the parameters whose names satisfy `which` by `init`, from the random streams of `scope.name` in
    /// a store with `seed`; buffers stay.
    ///
    /// For a teacher that does not start as a copy (SdAE), and for a student that restarts (dBOT).
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub fn redraw(
        &self,
        init: &dyn InitScheme,
        (seed, scope): (u64, &str),
        which: impl Fn(&str) -> bool,
    ) -> Result<()> {
        for ((name, kind), (_, var)) in self.names().into_iter().zip(self.vars()) {
            if kind == Kind::Buffer || !which(&name) {
                continue;
            }
            let from = init.draw(&name, var.dims());
            let stream = format!("{scope}.{name}");
            let values = draw(from, seed, &stream, var.dims(), self.device())?;
            var.set(&values)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::SwinInit;
    use super::*;

    #[test]
    fn parameters_are_redrawn_from_separate_streams() {
        let (first, teacher) = (ParamStore::cpu(1), ParamStore::teacher(&Device::Cpu));
        for store in [&first, &teacher] {
            store.root().weight(&[4, 4], "fc.weight").unwrap();
            store.root().weight(&[4], "kept").unwrap();
        }
        let values = |store: &ParamStore, name: &str| -> Vec<f32> {
            let var = store.var(name).unwrap();
            var.flatten_all().unwrap().to_vec1().unwrap()
        };
        let before = values(&first, "fc.weight");
        let init = SwinInit { patch_values: 12 };
        let fc = |name: &str| name != "kept";
        teacher.redraw(&init, (1, "teacher"), fc).unwrap();
        let drawn = values(&teacher, "fc.weight");
        assert!(drawn.iter().all(|value| *value != 0.) && drawn != before);
        assert_eq!(values(&teacher, "kept"), [0.; 4]);
        first.redraw(&init, (1, "teacher"), fc).unwrap();
        assert_eq!(values(&first, "fc.weight"), drawn);
        first.redraw(&init, (1, "again"), fc).unwrap();
        assert_ne!(values(&first, "fc.weight"), drawn);
    }
}
