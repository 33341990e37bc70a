//! The id of a server: that of its data folder, so that it knows its containers again.

use std::{io, path::Path};

/// The file that holds it.
const FILE: &str = "server";

/// The id of the data folder; a new folder is given one.
pub(crate) async fn server_id(data: &Path) -> io::Result<String> {
    let path = data.join(FILE);
    match tokio::fs::read_to_string(&path).await {
        Ok(id) if !id.trim().is_empty() => return Ok(id.trim().to_owned()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let id = format!("{:032x}", rand::random::<u128>());
    tokio::fs::write(&path, format!("{id}\n")).await?;
    Ok(id)
}
