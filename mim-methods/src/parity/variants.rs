//! Cases that hold two: with another order of rows, or of two networks.

use super::Case;

impl Case {
    /// The case itself. If gradients `grad_aligned.` are recorded, also the same case with predictions of visible
    /// patches compared in their own order (DMJD): its outputs end in `_aligned`, and it has no step.
    ///
    /// A case that holds both a student and its tokenizer (BEiT v2) becomes two: the student's, with the tokenizer as
    /// teacher, and the tokenizer's.
    pub(super) fn variants(&self) -> (Self, Option<Self>) {
        if !self.group("param.vqkd.").is_empty() {
            let (student, tokenizer) = self.with_tokenizer();
            return (student, Some(tokenizer));
        }
        const ALIGNED: &str = "_aligned";
        if self.group("grad_aligned.").is_empty() {
            return (self.clone(), None);
        }
        let (mut first, mut second) = (self.clone(), self.clone());
        (first.tensors, second.tensors) = Default::default();
        for (name, tensor) in self.tensors.iter() {
            let plain = name.replacen(ALIGNED, "", 1);
            let of_second = plain != name;
            let replaced = ["grad.", "step."]
                .iter()
                .any(|group| name.starts_with(group))
                || name == "expect.loss"
                || self.tensor(&format!("{name}{ALIGNED}")).is_some();
            if !of_second {
                first.tensors.insert(name, tensor.clone());
            }
            if of_second || !replaced {
                second.tensors.insert(plain, tensor.clone());
            }
        }
        let order = serde_json::Value::from("aligned");
        second
            .header
            .config
            .insert("visible_order".to_owned(), order);
        second.header.config.remove("optimizer");
        (first, Some(second))
    }

    /// The student's part of the case, and the tokenizer's.
    fn with_tokenizer(&self) -> (Self, Self) {
        const OWN: &str = "vqkd";
        let (mut student, mut tokenizer) = (self.clone(), self.clone());
        (student.tensors, tokenizer.tensors) = Default::default();
        for (name, tensor) in self.tensors.iter() {
            let own = [format!(".{OWN}."), format!(".{OWN}_")];
            let (group, rest) = name.split_once('.').unwrap_or(("", name));
            match own.iter().find(|own| name[group.len()..].starts_with(*own)) {
                Some(own) => {
                    let rest = &name[group.len() + own.len()..];
                    tokenizer
                        .tensors
                        .insert(format!("{group}.{rest}"), tensor.clone());
                    if group == "param" {
                        student
                            .tensors
                            .insert(format!("teacher.{rest}"), tensor.clone());
                    }
                }
                None if group == "input" || rest == "tokens" => {
                    tokenizer.tensors.insert(name.to_owned(), tensor.clone());
                    student.tensors.insert(name.to_owned(), tensor.clone());
                }
                None => student.tensors.insert(name.to_owned(), tensor.clone()),
            }
        }
        tokenizer.header.method = OWN.to_owned();
        // Its own settings, and what it shares with the student.
        const SHARED: &[&str] = &[
            "image_size",
            "patch_size",
            "in_channels",
            "mlp_ratio",
            "norm_eps",
            "qkv_bias",
            "codebook_ema",
        ];
        let config = &mut tokenizer.header.config;
        config.retain(|key, _| SHARED.contains(&key.as_str()));
        if let Some(own) = self
            .header
            .config
            .get(OWN)
            .and_then(serde_json::Value::as_object)
        {
            config.extend(own.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        student.header.config.remove("codebook_ema");
        (student, tokenizer)
    }
}
