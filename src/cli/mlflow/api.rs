//! Requests to the REST API of MLflow, version 2.0 (<https://mlflow.org/docs/latest/rest-api.html>).

use serde_json::Value;

/// The answer to a request.
#[cfg_attr(
    not(feature = "hub"),
    expect(dead_code, reason = "without requests there are no answers")
)]
pub(super) enum Answer {
    /// Status 200, with its JSON.
    Done(Value),
    /// The server does not have it (status 404).
    Missing,
}

/// A server.
pub(super) struct Api {
    /// Scheme, host, port and an optional path, without a final slash.
    pub(super) url: String,
    #[cfg(feature = "hub")]
    agent: ureq::Agent,
}

#[cfg(feature = "hub")]
mod http {
    use std::time::Duration;

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::Value;
    use ureq::{Agent, Body, http::Response};

    use super::{Answer, Api};

    /// The longest time that training waits for an answer.
    const LONGEST: Duration = Duration::from_secs(10);

    impl Api {
        /// Does not open a connection yet.
        pub(in crate::cli::mlflow) fn new(url: &str) -> Self {
            let mut config = Agent::config_builder()
                .http_status_as_error(false)
                .timeout_global(Some(LONGEST));
            // A proxy cannot reach servers on this machine.
            if ["//localhost", "//127.", "//[::1]"]
                .iter()
                .any(|host| url.contains(host))
            {
                config = config.proxy(None);
            }
            Self {
                url: url.to_owned(),
                agent: config.build().into(),
            }
        }

        /// Sends a GET request.
        ///
        /// # Errors
        ///
        /// One line that says why there is no answer, or what the server refuses.
        pub(in crate::cli::mlflow) fn get(
            &self,
            path: &str,
            query: (&str, &str),
        ) -> Result<Answer, String> {
            let mut request = self.agent.get(self.address(path)).query(query.0, query.1);
            if let Some(value) = authorization() {
                request = request.header("Authorization", value);
            }
            answer(request.call(), path)
        }

        /// Sends a POST request.
        ///
        /// # Errors
        ///
        /// As [`Api::get`].
        pub(in crate::cli::mlflow) fn post(
            &self,
            path: &str,
            body: &Value,
        ) -> Result<Answer, String> {
            let request = self.agent.post(self.address(path));
            let mut request = request.header("Content-Type", "application/json");
            if let Some(value) = authorization() {
                request = request.header("Authorization", value);
            }
            answer(request.send(body.to_string()), path)
        }

        fn address(&self, path: &str) -> String {
            format!("{}/api/2.0/mlflow/{path}", self.url)
        }
    }

    /// The authorisation that MLflow's own clients send, from the same variables.
    fn authorization() -> Option<String> {
        let of = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let Some(token) = of("MLFLOW_TRACKING_TOKEN") {
            return Some(format!("Bearer {token}"));
        }
        let user = of("MLFLOW_TRACKING_USERNAME")?;
        let password = of("MLFLOW_TRACKING_PASSWORD").unwrap_or_default();
        Some(format!(
            "Basic {}",
            STANDARD.encode(format!("{user}:{password}"))
        ))
    }

    fn answer(got: Result<Response<Body>, ureq::Error>, path: &str) -> Result<Answer, String> {
        let mut response = got.map_err(|error| error.to_string())?;
        let status = response.status();
        let text = response.body_mut().read_to_string();
        let text = text.map_err(|error| format!("{path}: {error}"))?;
        match status.as_u16() {
            200 => serde_json::from_str(&text)
                .map(Answer::Done)
                .map_err(|_| format!("{path}: this is not an answer of MLflow")),
            404 if text.contains("RESOURCE_DOES_NOT_EXIST") => Ok(Answer::Missing),
            code => {
                let start: String = text.chars().take(200).collect();
                Err(format!("{path}: status {code}: {start}"))
            }
        }
    }
}

#[cfg(not(feature = "hub"))]
impl Api {
    const NONE: &str = "this program was built without the feature `hub`, which makes requests";

    pub(super) fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
        }
    }

    pub(super) fn get(&self, _path: &str, _query: (&str, &str)) -> Result<Answer, String> {
        Err(Self::NONE.to_owned())
    }

    pub(super) fn post(&self, _path: &str, _body: &Value) -> Result<Answer, String> {
        Err(Self::NONE.to_owned())
    }
}
