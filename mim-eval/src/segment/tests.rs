//! Heads on small encoders and data.
