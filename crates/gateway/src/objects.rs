//! Objects that components store: streamed to files, found by up to five pairs, gone when their
//! time is over. Every object belongs to one flow; other flows do not see it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use flowline_model::{FlowName, Size, Timestamp};
use flowline_sdk::ByteStream;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::{
    fs::{self, File},
    io::AsyncWriteExt,
};
use uuid::Uuid;

use crate::settings::Limits;

/// Pairs by which an object may be found.
pub(crate) const MOST_PAIRS: usize = 5;

/// What is known of an object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Object {
    pub(crate) object_id: Uuid,
    pub(crate) content_type: String,
    /// Its length in bytes.
    pub(crate) content_length: u64,
    pub(crate) created_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    /// Pairs by which it is found.
    #[serde(default)]
    pub(crate) query: BTreeMap<String, String>,
    /// Pairs that are only kept.
    #[serde(default)]
    pub(crate) metadata: BTreeMap<String, String>,
}

/// What is said of an object when it is stored.
#[derive(Debug, Clone, Default)]
pub(crate) struct Described {
    pub(crate) content_type: Option<String>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) metadata: BTreeMap<String, String>,
}

/// Why an object cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ObjectError {
    #[error("there is no such object")]
    Missing,
    #[error("the object is larger than {0}")]
    TooLarge(Size),
    #[error("an object has at most {MOST_PAIRS} pairs to be found by")]
    TooManyPairs,
    #[error("the object store is full")]
    Full,
    #[error("the object could not be stored or read: {0}")]
    Io(#[from] io::Error),
}

type Pair = (FlowName, String, String);

#[derive(Default)]
struct Index {
    objects: HashMap<(FlowName, Uuid), Object>,
    pairs: HashMap<Pair, BTreeSet<Uuid>>,
    bytes: u64,
}

impl Index {
    fn insert(&mut self, flow: &FlowName, object: Object) {
        self.remove(flow, object.object_id);
        for (key, value) in &object.query {
            let pair = (flow.clone(), key.clone(), value.clone());
            self.pairs.entry(pair).or_default().insert(object.object_id);
        }
        self.bytes += object.content_length;
        self.objects.insert((flow.clone(), object.object_id), object);
    }

    fn remove(&mut self, flow: &FlowName, id: Uuid) -> Option<Object> {
        let object = self.objects.remove(&(flow.clone(), id))?;
        self.bytes = self.bytes.saturating_sub(object.content_length);
        for (key, value) in &object.query {
            let pair = (flow.clone(), key.clone(), value.clone());
            if let Some(ids) = self.pairs.get_mut(&pair) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.pairs.remove(&pair);
                }
            }
        }
        Some(object)
    }
}

/// All stored objects.
pub(crate) struct Objects {
    root: PathBuf,
    limits: Limits,
    index: Mutex<Index>,
}

impl Objects {
    /// Opens the store in a folder of its own and reads what is there.
    pub(crate) async fn open(root: PathBuf, limits: Limits) -> io::Result<Self> {
        fs::create_dir_all(&root).await?;
        let store = Self { root, limits, index: Mutex::default() };
        store.load().await?;
        Ok(store)
    }

    async fn load(&self) -> io::Result<()> {
        let mut flows = fs::read_dir(&self.root).await?;
        while let Some(entry) = flows.next_entry().await? {
            let Ok(flow) = FlowName::new(entry.file_name().to_string_lossy()) else { continue };
            let mut files = fs::read_dir(entry.path()).await?;
            while let Some(file) = files.next_entry().await? {
                self.load_file(&flow, &file.path()).await?;
            }
        }
        Ok(())
    }

    async fn load_file(&self, flow: &FlowName, path: &Path) -> io::Result<()> {
        let extension = path.extension().map(|extension| extension.to_string_lossy().into_owned()).unwrap_or_default();
        if extension.ends_with("-part") {
            // It was being stored when the process ended.
            fs::remove_file(path).await?;
        } else if extension == "json" {
            match serde_json::from_slice::<Object>(&fs::read(path).await?) {
                Ok(object) => self.index().insert(flow, object),
                Err(error) => tracing::warn!(path = %path.display(), %error, "an object's description is unreadable"),
            }
        } else if !fs::try_exists(path.with_extension("json")).await? {
            fs::remove_file(path).await?;
        }
        Ok(())
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn content_path(&self, flow: &FlowName, id: Uuid) -> PathBuf {
        self.root.join(flow.as_str()).join(id.simple().to_string())
    }

    /// Stores an object under a new id, or in place of the one with this id.
    pub(crate) async fn put(
        &self,
        flow: &FlowName,
        id: Uuid,
        described: Described,
        content: ByteStream,
        now: Timestamp,
    ) -> Result<Object, ObjectError> {
        let earlier = self.index().objects.get(&(flow.clone(), id)).cloned();
        let object = self.describe(id, described, earlier, now)?;
        let path = self.content_path(flow, id);
        let folder = self.root.join(flow.as_str());
        fs::create_dir_all(&folder).await?;
        let fresh = path.with_extension(format!("{}-part", Uuid::from_bytes(rand::random()).simple()));
        let stored = self.store(object, content, &fresh, &path).await;
        match stored {
            Ok(object) => {
                self.index().insert(flow, object.clone());
                Ok(object)
            }
            Err(error) => {
                // What is not complete is of no use; that it is gone is best effort.
                let _ = fs::remove_file(&fresh).await;
                Err(error)
            }
        }
    }

    fn describe(
        &self,
        id: Uuid,
        described: Described,
        earlier: Option<Object>,
        now: Timestamp,
    ) -> Result<Object, ObjectError> {
        let ttl = described.ttl.unwrap_or(self.limits.object_ttl).min(self.limits.longest_ttl);
        let mut object = earlier.unwrap_or_else(|| Object {
            object_id: id,
            content_type: "application/json".to_owned(),
            content_length: 0,
            created_at: now,
            expires_at: now,
            query: BTreeMap::new(),
            metadata: BTreeMap::new(),
        });
        object.expires_at = now + ttl;
        object.content_type = described.content_type.unwrap_or(object.content_type);
        object.query.extend(described.query);
        object.metadata.extend(described.metadata);
        if object.query.len() > MOST_PAIRS || object.metadata.len() > 100 {
            return Err(ObjectError::TooManyPairs);
        }
        if self.index().objects.len() >= self.limits.object_count {
            return Err(ObjectError::Full);
        }
        Ok(object)
    }

    async fn store(
        &self,
        mut object: Object,
        mut content: ByteStream,
        fresh: &Path,
        path: &Path,
    ) -> Result<Object, ObjectError> {
        let mut file = File::create(fresh).await?;
        object.content_length = 0;
        while let Some(part) = content.next().await {
            let part = part?;
            object.content_length += part.len() as u64;
            if object.content_length > self.limits.object.0 {
                return Err(ObjectError::TooLarge(self.limits.object));
            }
            if self.index().bytes + object.content_length > self.limits.objects.0 {
                return Err(ObjectError::Full);
            }
            file.write_all(&part).await?;
        }
        file.flush().await?;
        file.sync_all().await?;
        let description = path.with_extension("json");
        fs::rename(fresh, path).await?;
        let fresh_description = path.with_extension("json-part");
        fs::write(&fresh_description, serde_json::to_vec(&object).map_err(io::Error::from)?).await?;
        File::open(&fresh_description).await?.sync_all().await?;
        fs::rename(&fresh_description, description).await?;
        if let Some(folder) = path.parent() {
            File::open(folder).await?.sync_all().await?;
        }
        Ok(object)
    }

    /// What is known of an object.
    pub(crate) fn get(&self, flow: &FlowName, id: Uuid, now: Timestamp) -> Result<Object, ObjectError> {
        let object = self.index().objects.get(&(flow.clone(), id)).cloned();
        object.filter(|object| object.expires_at > now).ok_or(ObjectError::Missing)
    }

    /// An object's content.
    pub(crate) async fn read(&self, flow: &FlowName, id: Uuid) -> Result<File, ObjectError> {
        File::open(self.content_path(flow, id)).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ObjectError::Missing,
            _ => error.into(),
        })
    }

    /// At most `max` objects of a flow that have all of these pairs.
    pub(crate) fn find(
        &self,
        flow: &FlowName,
        query: &BTreeMap<String, String>,
        max: usize,
        now: Timestamp,
    ) -> Vec<Object> {
        let Some((key, value)) = query.iter().next() else { return Vec::new() };
        let index = self.index();
        let Some(ids) = index.pairs.get(&(flow.clone(), key.clone(), value.clone())) else { return Vec::new() };
        let objects = ids.iter().filter_map(|id| index.objects.get(&(flow.clone(), *id)));
        let fits = |object: &&Object| {
            object.expires_at > now && query.iter().all(|(key, value)| object.query.get(key) == Some(value))
        };
        objects.filter(fits).take(max).cloned().collect()
    }

    /// Removes an object.
    pub(crate) async fn remove(&self, flow: &FlowName, id: Uuid) -> Result<(), ObjectError> {
        self.index().remove(flow, id).ok_or(ObjectError::Missing)?;
        let path = self.content_path(flow, id);
        fs::remove_file(path.with_extension("json")).await?;
        fs::remove_file(path).await?;
        Ok(())
    }

    /// Removes what has outlived its time.
    pub(crate) async fn sweep(&self, now: Timestamp) {
        let over = |(_, object): &(&(FlowName, Uuid), &Object)| object.expires_at <= now;
        let old: Vec<_> = self.index().objects.iter().filter(over).map(|(key, _)| key.clone()).collect();
        for (flow, id) in old {
            if let Err(error) = self.remove(&flow, id).await {
                tracing::warn!(%flow, object = %id, %error, "an object whose time is over could not be removed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use flowline_sdk::testing::in_parts;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

    fn described(pairs: &[(&str, &str)]) -> Described {
        let query = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Described { query, ttl: Some(Duration::from_secs(60)), ..Described::default() }
    }

    #[tokio::test]
    async fn objects_outlive_the_process_but_not_their_time_and_belong_to_one_flow() {
        let folder = tempfile::tempdir().unwrap();
        let (orders, other) = (FlowName::new("orders").unwrap(), FlowName::new("other").unwrap());
        let id = Uuid::from_bytes([1; 16]);
        let store = Objects::open(folder.path().into(), Limits::default()).await.unwrap();
        let content = || in_parts(Bytes::from(vec![b'x'; 1000]));
        store.put(&orders, id, described(&[("k", "v"), ("l", "w")]), content(), NOW).await.unwrap();
        drop(store);

        let store = Objects::open(folder.path().into(), Limits::default()).await.unwrap();
        assert_eq!(store.get(&orders, id, NOW).unwrap().content_length, 1000);
        assert!(matches!(store.get(&other, id, NOW), Err(ObjectError::Missing)));
        let both = BTreeMap::from([("k".to_owned(), "v".to_owned()), ("l".to_owned(), "w".to_owned())]);
        assert_eq!(store.find(&orders, &both, 10, NOW).len(), 1);
        assert_eq!(store.find(&other, &both, 10, NOW).len(), 0);
        let wrong = BTreeMap::from([("k".to_owned(), "v".to_owned()), ("l".to_owned(), "-".to_owned())]);
        assert_eq!(store.find(&orders, &wrong, 10, NOW).len(), 0);

        store.sweep(NOW + Duration::from_secs(61)).await;
        assert!(matches!(store.get(&orders, id, NOW), Err(ObjectError::Missing)));
        assert_eq!(std::fs::read_dir(folder.path().join("orders")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_is_too_large_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits { object: Size(999), ..Limits::default() };
        let store = Objects::open(folder.path().into(), limits).await.unwrap();
        let flow = FlowName::new("orders").unwrap();
        let content = in_parts(Bytes::from(vec![b'x'; 1000]));
        let stored = store.put(&flow, Uuid::from_bytes([1; 16]), Described::default(), content, NOW).await;
        assert!(matches!(stored, Err(ObjectError::TooLarge(Size(999)))));
        assert_eq!(std::fs::read_dir(folder.path().join("orders")).unwrap().count(), 0);
    }
}
