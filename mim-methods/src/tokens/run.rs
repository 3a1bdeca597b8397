//! Tokenizers of finished runs.

use std::path::Path;

use candle_core::{Device, Tensor};
use mim_core::{Error, ImageSize, Method, Result, StepContext, Tokenizer};

use crate::frozen::open_run;

/// The tokenizer of a finished run.
pub(super) struct RunTokenizer(Box<dyn Method>);

impl RunTokenizer {
    pub(super) fn open(path: &Path, device: &Device) -> Result<Self> {
        let method = open_run(path, device)?;
        if method.tokenizer().is_none() {
            return Err(Error::unsupported(
                format!("tokens of the run {}", path.display()),
                format!("{} trains no tokenizer", method.name()),
                "give a run of `mim pretrain --method vqkd`, `peco_tokenizer` or `dvae`",
            ));
        }
        Ok(Self(method))
    }

    fn inner(&self) -> Result<&dyn Tokenizer> {
        let found = self.0.tokenizer();
        found.ok_or_else(|| {
            Error::unsupported("tokens", "the run trained no tokenizer", "use another run")
        })
    }
}

impl Tokenizer for RunTokenizer {
    fn vocab_size(&self) -> usize {
        self.inner().map_or(0, |inner| inner.vocab_size())
    }

    fn stride(&self) -> usize {
        self.inner().map_or(1, |inner| inner.stride())
    }

    fn channels(&self) -> usize {
        self.inner().map_or(0, |inner| inner.channels())
    }

    fn image_size(&self) -> Option<ImageSize> {
        self.inner().ok()?.image_size()
    }

    fn tokens(&self, images: &Tensor, step: &StepContext) -> Result<Tensor> {
        self.inner()?.tokens(images, step)
    }

    fn has_logits(&self) -> bool {
        self.inner().is_ok_and(|inner| inner.has_logits())
    }

    fn logits(&self, images: &Tensor, step: &StepContext) -> Result<Tensor> {
        self.inner()?.logits(images, step)
    }
}
