//! Zip archives of PyTorch and numpy, and what else may carry such a name.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| mim_fuzz::weights("model.pth", bytes));
