//! What components keep besides their snapshot: startup data and refreshed credentials. Small
//! files that are durable before the component is told so, readable by nobody else.

use std::{io, path::PathBuf};

use flowline_model::QueueName;
use serde_json::Value;
use tokio::{
    fs::{self, File},
    io::AsyncWriteExt,
    sync::Mutex,
};

/// What startup hooks left.
pub(crate) const STARTUP: &str = "startup";
/// What `updateKeys` left.
pub(crate) const CREDENTIAL: &str = "credential";

/// All that is kept, by step.
pub(crate) struct Kept {
    root: PathBuf,
    /// Changes are rare; one at a time is enough.
    changing: Mutex<()>,
}

impl Kept {
    pub(crate) async fn open(root: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&root).await?;
        Ok(Self { root, changing: Mutex::default() })
    }

    fn path(&self, step: &QueueName, key: &str) -> PathBuf {
        self.root.join(step.flow.as_str()).join(step.step.as_str()).join(format!("{key}.json"))
    }

    /// What is kept under a key.
    pub(crate) async fn read(&self, step: &QueueName, key: &str) -> io::Result<Option<Value>> {
        match fs::read(self.path(step, key)).await {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps a value if nothing is kept yet; false if something is.
    pub(crate) async fn create(&self, step: &QueueName, key: &str, value: &Value) -> io::Result<bool> {
        let _alone = self.changing.lock().await;
        if self.read(step, key).await?.is_some() {
            return Ok(false);
        }
        self.write(step, key, value).await?;
        Ok(true)
    }

    /// Puts something in the place of what is kept.
    pub(crate) async fn change(
        &self,
        step: &QueueName,
        key: &str,
        change: impl FnOnce(Option<Value>) -> Value,
    ) -> io::Result<()> {
        let _alone = self.changing.lock().await;
        let changed = change(self.read(step, key).await?);
        self.write(step, key, &changed).await
    }

    async fn write(&self, step: &QueueName, key: &str, value: &Value) -> io::Result<()> {
        let path = self.path(step, key);
        let fresh = path.with_extension("part");
        let Some(folder) = path.parent() else { return Ok(()) };
        fs::create_dir_all(folder).await?;
        let mut options = File::options();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        options.mode(0o600);
        let mut file = options.open(&fresh).await?;
        file.write_all(&serde_json::to_vec(value)?).await?;
        file.flush().await?;
        file.sync_all().await?;
        fs::rename(&fresh, &path).await?;
        File::open(folder).await?.sync_all().await
    }

    /// Forgets what is kept under a key; it may be gone already.
    pub(crate) async fn remove(&self, step: &QueueName, key: &str) -> io::Result<()> {
        let _alone = self.changing.lock().await;
        match fs::remove_file(self.path(step, key)).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn what_is_kept_outlives_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let step: QueueName = "orders/cms".parse().unwrap();
        let kept = Kept::open(folder.path().into()).await.unwrap();
        assert!(kept.create(&step, STARTUP, &json!({"hook": 1})).await.unwrap());
        assert!(!kept.create(&step, STARTUP, &json!({"hook": 2})).await.unwrap());
        kept.change(&step, CREDENTIAL, |kept| json!([kept, 1])).await.unwrap();
        kept.change(&step, CREDENTIAL, |kept| json!([kept, 2])).await.unwrap();

        let kept = Kept::open(folder.path().into()).await.unwrap();
        assert_eq!(kept.read(&step, STARTUP).await.unwrap(), Some(json!({"hook": 1})));
        assert_eq!(kept.read(&step, CREDENTIAL).await.unwrap(), Some(json!([[null, 1], 2])));
        kept.remove(&step, STARTUP).await.unwrap();
        kept.remove(&step, STARTUP).await.unwrap();
        assert_eq!(kept.read(&step, STARTUP).await.unwrap(), None);
    }
}
