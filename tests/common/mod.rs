//! Methods at sizes that a test can afford.

use std::fs;
use std::path::Path;

use candle_core::Device;
use mim_core::Method;
use mim_methods::registry;

use crate::parallel::without_drop_path;

/// The method of `mim-methods/tests/tiny/<name>.toml`, the same weights on any device.
pub(crate) fn tiny(name: &str, device: &Device) -> Box<dyn Method> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = root.join(format!("mim-methods/tests/tiny/{name}.toml"));
    let mut tiny: toml::Table = fs::read_to_string(file).unwrap().parse().unwrap();
    let toml::Value::Table(settings) = tiny.remove("settings").unwrap() else {
        panic!("settings are a table");
    };
    let entry = registry::method(name).unwrap();
    let settings = entry.resolve(without_drop_path(settings)).unwrap();
    entry.build(settings, device, 5).unwrap()
}
