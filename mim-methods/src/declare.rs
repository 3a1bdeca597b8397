//! Macros that declare methods.

/// Declares the methods, one per line: `module => public items;`. Each line expands to the `mod`, the `pub use`, and
/// the registry entry, which is the module's `ENTRY`.
macro_rules! methods {
    ($($module:ident $(=> $($public:ident),+)?;)*) => {
        $(
            mod $module;
            $(pub use self::$module::{$($public),+};)?
        )*

        /// The methods of mim.
        pub(crate) const METHODS: &[crate::registry::Entry] = &[$($module::ENTRY),*];
    };
}

/// The shipped recipes with these names.
macro_rules! recipes {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/recipes/", $name, ".toml")))),*]
    };
}
