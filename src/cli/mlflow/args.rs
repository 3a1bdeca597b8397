//! The options of `--log`.

use std::path::Path;
use std::str::FromStr;

use super::Mlflow;
use crate::RunConfig;
use crate::cli::pretrain::resume::flatten;

/// Where figures go in addition to the run folder.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LogArgs {
    /// Send the settings and the figures of each epoch to an MLflow server: mlflow:http://HOST:PORT. The run continues
    /// if the server does not answer.
    #[arg(long, value_name = "mlflow:URL")]
    log: Option<Server>,
    /// The experiment of --log.
    #[arg(long, value_name = "NAME", default_value = "mim", requires = "log")]
    log_experiment: String,
}

impl LogArgs {
    /// The run of --log in the folder `run`, with the settings of `config`.
    ///
    /// # Errors
    ///
    /// If the settings cannot be written as JSON.
    pub(crate) fn start(&self, config: &RunConfig, run: &Path) -> mim_core::Result<Option<Mlflow>> {
        let Some(server) = &self.log else {
            return Ok(None);
        };
        let mut params = Vec::new();
        flatten(&config.to_json()?, String::new(), &mut params);
        Ok(Some(Mlflow::start(
            server,
            &self.log_experiment,
            run,
            params,
        )))
    }
}

/// A server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) url: String,
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fix = "write mlflow:http://HOST:PORT; TensorBoard reads the run folder itself";
        let url = text.strip_prefix("mlflow:").ok_or(fix)?;
        let host = url
            .strip_prefix("http://")
            .or_else(|| url.strip_prefix("https://"));
        match host.is_some_and(|host| !host.trim_matches('/').is_empty()) {
            true if cfg!(feature = "hub") => Ok(Self {
                url: url.trim_end_matches('/').to_owned(),
            }),
            true => Err(
                "this program was built without the feature `hub`, which makes requests".to_owned(),
            ),
            false => Err(fix.to_owned()),
        }
    }
}
