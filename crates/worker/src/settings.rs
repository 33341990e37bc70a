//! What the environment of the container says, read once. Nothing here prints itself: there are
//! credentials among it.

use crate::cipher::Cipher;

/// The variables of the step contract begin so.
const PREFIX: &str = "ELASTICIO_";
/// How large an outgoing message may be unless the environment says otherwise, in bytes.
const SIZE_LIMIT: usize = 10 << 20;

/// Why a worker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A variable of the environment is missing.
    #[error("{PREFIX}{0} is missing: `flowline worker` is started by Flowline, in a container")]
    Missing(&'static str),
    /// A variable of the environment cannot be used.
    #[error("{PREFIX}{name} cannot be used: {reason}")]
    Invalid {
        /// Its name without the prefix.
        name: &'static str,
        /// What is wrong with it; never its value.
        reason: String,
    },
}

/// Where a worker belongs and whom it talks to.
pub(crate) struct Settings {
    pub(crate) flow: String,
    pub(crate) step: String,
    pub(crate) container: String,
    /// Variable names in camel case, with their values: what goes along with every publication.
    pub(crate) origin: Vec<(&'static str, String)>,
    pub(crate) api: Api,
    pub(crate) objects: Option<Objects>,
    pub(crate) broker: Broker,
    pub(crate) cipher: Cipher,
    /// How bodies of outgoing data are written: 1 is base64, 2 is raw.
    pub(crate) protocol: u32,
    /// The most bytes of one outgoing message.
    pub(crate) size_limit: usize,
}

/// The HTTP side of the gateway.
pub(crate) struct Api {
    pub(crate) url: String,
    pub(crate) user: String,
    pub(crate) key: String,
}

/// Where attachments are kept.
pub(crate) struct Objects {
    pub(crate) url: String,
    pub(crate) token: String,
}

/// The AMQP side of the gateway.
pub(crate) struct Broker {
    pub(crate) url: String,
    pub(crate) queue: String,
    pub(crate) exchange: String,
    pub(crate) data_key: String,
    pub(crate) error_key: String,
    pub(crate) snapshot_key: String,
    pub(crate) prefetch: u16,
    pub(crate) persistent: bool,
}

/// Reads variables one by one.
struct Environment<F>(F);

impl<F: Fn(&str) -> Option<String>> Environment<F> {
    fn optional(&self, name: &str) -> Option<String> {
        (self.0)(&format!("{PREFIX}{name}")).filter(|value| !value.is_empty())
    }

    fn required(&self, name: &'static str) -> Result<String, WorkerError> {
        self.optional(name).ok_or(WorkerError::Missing(name))
    }

    /// A number; as in the contract, zero and what is none count as unset.
    fn number(&self, name: &str, otherwise: u64) -> u64 {
        let given = self.optional(name).and_then(|value| value.trim().parse().ok());
        given.filter(|number| *number != 0).unwrap_or(otherwise)
    }

    fn address(&self, name: &'static str) -> Result<String, WorkerError> {
        let text = self.required(name)?;
        let parsed = url::Url::parse(&text).ok().filter(url::Url::has_host);
        let invalid = || WorkerError::Invalid { name, reason: "it is not an address".to_owned() };
        parsed.ok_or_else(invalid)?;
        Ok(text.trim_end_matches('/').to_owned())
    }

    fn objects(&self) -> Result<Option<Objects>, WorkerError> {
        if self.optional("OBJECT_STORAGE_URI").is_none() {
            return Ok(None);
        }
        let token = self.optional("OBJECT_STORAGE_TOKEN").unwrap_or_default();
        Ok(Some(Objects { url: self.address("OBJECT_STORAGE_URI")?, token }))
    }

    fn broker(&self) -> Result<Broker, WorkerError> {
        let prefetch = self.number("RABBITMQ_PREFETCH_SAILOR", 1);
        let persistent = self.optional("AMQP_PERSISTENT_MESSAGES").is_some_and(|value| value != "false");
        Ok(Broker {
            url: self.required("AMQP_URI")?,
            queue: self.required("LISTEN_MESSAGES_ON")?,
            exchange: self.required("PUBLISH_MESSAGES_TO")?,
            data_key: self.required("DATA_ROUTING_KEY")?,
            error_key: self.required("ERROR_ROUTING_KEY")?,
            snapshot_key: self.required("SNAPSHOT_ROUTING_KEY")?,
            prefetch: u16::try_from(prefetch).unwrap_or(u16::MAX),
            persistent,
        })
    }

    fn cipher(&self) -> Result<Cipher, WorkerError> {
        let password = self.required("MESSAGE_CRYPTO_PASSWORD")?;
        let start = self.required("MESSAGE_CRYPTO_IV")?;
        Cipher::new(&password, start.as_bytes()).ok_or_else(|| WorkerError::Invalid {
            name: "MESSAGE_CRYPTO_IV",
            reason: format!("it has {} bytes, not 16", start.len()),
        })
    }
}

impl Settings {
    /// Reads the environment.
    pub(crate) fn read(environment: impl Fn(&str) -> Option<String>) -> Result<Self, WorkerError> {
        let environment = Environment(environment);
        let required = |name| environment.required(name);
        let (flow, step, container) = (required("FLOW_ID")?, required("STEP_ID")?, required("CONTAINER_ID")?);
        let origin = vec![
            ("taskId", flow.clone()),
            ("stepId", step.clone()),
            ("containerId", container.clone()),
            ("execId", required("EXEC_ID")?),
            ("workspaceId", required("WORKSPACE_ID")?),
            ("userId", required("USER_ID")?),
            ("compId", required("COMP_ID")?),
            ("function", required("FUNCTION")?),
        ];
        let size_limit = environment.number("OUTGOING_MESSAGE_SIZE_LIMIT", SIZE_LIMIT as u64);
        Ok(Self {
            flow,
            step,
            container,
            origin,
            api: Api {
                url: environment.address("API_URI")?,
                user: required("API_USERNAME")?,
                key: required("API_KEY")?,
            },
            objects: environment.objects()?,
            broker: environment.broker()?,
            cipher: environment.cipher()?,
            protocol: if environment.number("PROTOCOL_VERSION", 1) >= 2 { 2 } else { 1 },
            size_limit: usize::try_from(size_limit).unwrap_or(usize::MAX),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(name: &str) -> Option<String> {
        let value = match name.strip_prefix(PREFIX)? {
            "API_URI" => "http://127.0.0.1:1/",
            "MESSAGE_CRYPTO_IV" => "sixteen bytes 16",
            "RABBITMQ_PREFETCH_SAILOR" => "0",
            "OBJECT_STORAGE_URI" | "OBJECT_STORAGE_TOKEN" | "PROTOCOL_VERSION" => return None,
            "OUTGOING_MESSAGE_SIZE_LIMIT" => "many",
            _ => "x",
        };
        Some(value.to_owned())
    }

    fn without(missing: &'static str) -> Result<Settings, WorkerError> {
        Settings::read(move |name| complete(name).filter(|_| name != format!("{PREFIX}{missing}")))
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let settings = Settings::read(complete).ok().unwrap();
        assert_eq!((settings.api.url.as_str(), settings.broker.prefetch), ("http://127.0.0.1:1", 1));
        assert_eq!((settings.protocol, settings.size_limit), (1, SIZE_LIMIT));
        assert!(settings.objects.is_none());
    }

    #[test]
    fn what_is_missing_is_named_and_no_value_is_told() {
        for name in ["FLOW_ID", "API_KEY", "AMQP_URI", "SNAPSHOT_ROUTING_KEY", "MESSAGE_CRYPTO_PASSWORD"] {
            assert!(without(name).err().unwrap().to_string().contains(&format!("{PREFIX}{name} is missing")));
        }
        let short =
            Settings::read(|name| if name.ends_with("CRYPTO_IV") { Some("hush".to_owned()) } else { complete(name) });
        let told = short.err().unwrap().to_string();
        assert!(told.contains("4 bytes, not 16") && !told.contains("hush"), "{told}");
    }
}
