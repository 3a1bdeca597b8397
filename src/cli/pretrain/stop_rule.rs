//! `--stop-if`: rules that end a run early.

use std::collections::BTreeMap;
use std::str::FromStr;

/// A rule such as `knn_top1 < 20 @ epoch 10`. If it holds, the run ends after that epoch, or after any if none is named.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StopRule {
    pub(super) metric: String,
    less: bool,
    bound: f64,
    /// From 1.
    epoch: Option<usize>,
}

impl FromStr for StopRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "write METRIC < NUMBER or METRIC > NUMBER, optionally followed by @ epoch N".to_owned()
        };
        let (rule, epoch) = match text.split_once('@') {
            None => (text, None),
            Some((rule, at)) => {
                let number = at.trim().strip_prefix("epoch").unwrap_or(at).trim();
                let epoch = number.parse().ok().filter(|epoch| *epoch > 0);
                (rule, Some(epoch.ok_or_else(wrong)?))
            }
        };
        let (less, (metric, bound)) = match (rule.split_once('<'), rule.split_once('>')) {
            (Some(sides), None) => (true, sides),
            (None, Some(sides)) => (false, sides),
            _ => return Err(wrong()),
        };
        let bound: f64 = bound.trim().parse().map_err(|_| wrong())?;
        let metric = metric.trim().to_owned();
        match metric.is_empty() || bound.is_nan() {
            true => Err(wrong()),
            false => Ok(Self {
                metric,
                less,
                bound,
                epoch,
            }),
        }
    }
}

impl StopRule {
    /// Why the run ends after `epoch` (from 0) with these figures; `None` if it goes on.
    pub(super) fn ends(&self, epoch: usize, figures: &BTreeMap<String, f64>) -> Option<String> {
        if self.epoch.is_some_and(|at| at != epoch + 1) {
            return None;
        }
        let value = *figures.get(&self.metric)?;
        let holds = if self.less {
            value < self.bound
        } else {
            value > self.bound
        };
        let sign = if self.less { "below" } else { "above" };
        holds.then(|| {
            let (metric, bound) = (&self.metric, self.bound);
            format!(
                "{metric} is {value:.4}, {sign} {bound}, after epoch {}",
                epoch + 1
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_and_hold_at_their_epoch() {
        let rule: StopRule = "knn_top1 < 20 @ epoch 10".parse().unwrap();
        let figures = |value: f64| BTreeMap::from([("knn_top1".to_owned(), value)]);
        assert!(
            rule.ends(9, &figures(19.))
                .unwrap()
                .contains("knn_top1 is 19.0000, below 20")
        );
        assert_eq!(rule.ends(9, &figures(20.)), None);
        assert_eq!(rule.ends(8, &figures(1.)), None);
        let any: StopRule = "loss>1e3".parse().unwrap();
        assert_eq!(any.ends(0, &figures(1.)), None);
        let loss = BTreeMap::from([("loss".to_owned(), 2e3)]);
        assert!(any.ends(3, &loss).is_some());
        for wrong in [
            "",
            "knn_top1",
            "knn_top1 = 3",
            "a < b",
            "a < 1 @ 0",
            "< 3",
            "a < nan",
        ] {
            assert!(wrong.parse::<StopRule>().is_err(), "{wrong}");
        }
    }
}
