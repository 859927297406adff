//! What all instances of one services directory share: the programs, the account and the directories.

use std::path::Path;

use anyhow::Result;

use super::account::Account;
use super::layout::Layout;
use crate::setup::find::{self, Tools};

/// Everything needed to start or stop an instance.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) tools: Tools,
    pub(crate) account: Account,
    pub(crate) layout: Layout,
}

impl Host {
    /// Finds the programs and prepares the directories.
    pub(crate) fn prepare(directory: &Path) -> Result<Host> {
        let tools = find::require()?;
        let account = Account::choose()?;
        let layout = Layout::prepare(directory, &account)?;
        Ok(Host { tools, account, layout })
    }

    /// The same for a directory that exists, to stop or look at what runs there.
    pub(crate) fn locate(directory: &Path) -> Result<Host> {
        Ok(Host { tools: find::require()?, account: Account::choose()?, layout: Layout::locate(directory)? })
    }
}
