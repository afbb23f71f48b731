//! The context that `up` makes, so that the next command finds the lattice, and that `down` takes away again.

use lattice_core::error::Problem;
use lattice_core::id::ConfigName;

use super::folder::Folder;
use super::state::State;
use crate::connection::environment;
use crate::context::{Context, Contexts};

/// Writes a context for what runs in `folder`, and makes it current unless another one is that still means something.
/// Returns its name, and whether it is current; none if there is no home folder.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn add(folder: &Folder, state: &State) -> Result<Option<(ConfigName, bool)>, Problem> {
    let Some(contexts) = Contexts::of_user(&environment) else { return Ok(None) };
    let context = Context {
        nats_url: Some(state.nats_url.clone()),
        lattice: Some(state.lattice.clone()),
        creds: state.creds.clone(),
        tls_ca: state.tls_ca.clone(),
        data_dir: Some(folder.root().to_owned()),
    };
    let Some(name) = free_name(&contexts, &context, state)? else { return Ok(None) };
    contexts.write(&name, &context)?;
    let current = match contexts.current()? {
        Some(current) if current != name => match contexts.read(&current) {
            Ok(Some(other)) if !is_over(&other) => Some(current),
            Ok(_) | Err(_) => None,
        },
        Some(_) | None => None,
    };
    if current.is_none() {
        contexts.make_current(&name)?;
    }
    Ok(Some((name, current.is_none())))
}

/// Removes the contexts that `up` made for `folder`.
///
/// # Errors
/// If one cannot be removed.
pub(crate) fn remove(folder: &Folder) -> Result<(), Problem> {
    let Some(contexts) = Contexts::of_user(&environment) else { return Ok(()) };
    for name in contexts.names()? {
        if matches!(contexts.read(&name), Ok(Some(context)) if context.data_dir.as_deref() == Some(folder.root())) {
            contexts.delete(&name)?;
        }
    }
    Ok(())
}

/// What runs on this machine behind the server at `url`, as far as contexts know.
pub(crate) fn state_of(url: &str) -> Option<State> {
    State::read(&folder_at(url)?).ok().flatten()
}

/// The data folder of the lattice on this machine behind the server at `url`, as far as contexts know.
pub(crate) fn folder_at(url: &str) -> Option<Folder> {
    let contexts = Contexts::of_user(&environment)?;
    let known = contexts.names().ok()?.into_iter().filter_map(|name| contexts.read(&name).ok().flatten());
    known.filter(|context| context.nats_url.as_deref() == Some(url)).find_map(|context| folder_of(&context))
}

/// The lattice's name, or one with a number after it if somebody else's context has that.
fn free_name(contexts: &Contexts, context: &Context, state: &State) -> Result<Option<ConfigName>, Problem> {
    /// How many lattices of one name may run side by side until one gets no context.
    const MOST: u32 = 100;
    for number in 1..MOST {
        let text = if number == 1 { state.lattice.to_string() } else { format!("{}-{number}", state.lattice) };
        let Ok(name) = ConfigName::new(text) else { continue };
        match contexts.read(&name) {
            Ok(Some(other)) if other.data_dir != context.data_dir && !is_over(&other) => {}
            Ok(_) => return Ok(Some(name)),
            // One that cannot be understood is somebody's work; it is left alone.
            Err(_) => {}
        }
    }
    Ok(None)
}

/// Whether a context was made by an `up` that no longer runs.
fn is_over(context: &Context) -> bool {
    folder_of(context).is_some_and(|folder| !folder.is_locked())
}

/// The data folder of the `up` that made a context.
fn folder_of(context: &Context) -> Option<Folder> {
    Folder::new(Some(context.data_dir.as_deref()?), context.lattice.as_ref()?).ok()
}
