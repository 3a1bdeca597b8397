//! Compiles the GPU kernels of `src/gpu/kernels` to PTX under the feature `cuda`; does nothing without it.
//!
//! It needs nvcc (`scripts/cuda_setup.sh` installs one) and writes `kernels.rs`, which holds the PTX of every
//! file. The PTX targets `CUDA_COMPUTE_CAP`, by default 80: the driver compiles it for every GPU from Ampere on
//! at load time. 90 means sm_90a and runs on compute capability 9.0 only.

#[cfg(feature = "cuda")]
const KERNELS: &str = "src/gpu/kernels";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    ptx();
}

#[cfg(feature = "cuda")]
#[expect(
    clippy::expect_used,
    reason = "a build script reports failure by panicking"
)]
fn ptx() {
    println!("cargo::rerun-if-changed={KERNELS}");
    println!("cargo::rerun-if-env-changed=CUDA_COMPUTE_CAP");
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let mut names: Vec<String> = std::fs::read_dir(KERNELS)
        .expect("the folder of kernels can be read")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".cu").map(str::to_owned))
        .collect();
    names.sort();
    let files = names.iter().map(|name| format!("{KERNELS}/{name}.cu"));
    let mut builder = cudaforge::KernelBuilder::new()
        .source_files(files)
        .arg("-std=c++17")
        .arg("-O3");
    if std::env::var_os("CUDA_COMPUTE_CAP").is_none() {
        builder = builder.compute_cap(80);
    }
    let constants = builder.build_ptx().expect("nvcc compiles the kernels");
    constants
        .write(out.join("ptx.rs"))
        .expect("OUT_DIR can be written");
    let entries: String = names
        .iter()
        .map(|name| format!("    (\"{name}\", {}),\n", name.to_uppercase()))
        .collect();
    let table = format!(
        "include!(concat!(env!(\"OUT_DIR\"), \"/ptx.rs\"));\n\
         /// PTX by file.\nconst MODULES: &[(&str, &str)] = &[\n{entries}];\n"
    );
    std::fs::write(out.join("kernels.rs"), table).expect("OUT_DIR can be written");
}
