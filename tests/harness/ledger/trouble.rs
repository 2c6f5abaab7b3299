//! What an error means to a client: told to reconnect, surely not committed, or in doubt.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::Error;

use super::work::{Failure, Nature};

/// How long a client waits for one answer before it calls that a failure.
const STATEMENT_PATIENCE: Duration = Duration::from_mins(1);

/// The task that drives a connection.
pub type Driver = JoinHandle<Result<(), Error>>;

/// How a write did not succeed.
pub enum Trouble {
    /// Told 57P01 before anything of the write ran: the same write is done again on a new
    /// connection. If it did run, it is in the ledger twice.
    Reconnect,
    /// Failed, and surely not committed.
    Failed(Failure),
    /// Nobody knows.
    InDoubt(Failure),
}

/// Turns an error into what it means at that step of a write.
pub struct Step {
    pub writer: usize,
    pub nature: Nature,
}

impl Step {
    /// A statement that is a transaction by itself. Only something planned promises that a session
    /// told 57P01 was at a safe point.
    pub async fn alone(&self, step: &'static str, error: Broken, driver: &mut Driver) -> Trouble {
        match error.or_last_words(driver).await {
            said if said.is_reconnect() && self.nature != Nature::Unplanned => Trouble::Reconnect,
            said => self.doubt(step, said),
        }
    }

    /// BEGIN: nothing has run yet.
    pub async fn first(&self, step: &'static str, error: Broken, driver: &mut Driver) -> Trouble {
        let said = error.or_last_words(driver).await;
        self.nothing_ran(step, said)
    }

    /// Within a transaction: it is rolled back, whatever happened.
    pub async fn inside(&self, step: &'static str, error: Broken, driver: &mut Driver) -> Trouble {
        let said = error.or_last_words(driver).await;
        Trouble::Failed(self.failure(step, said))
    }

    pub async fn commit(&self, step: &'static str, error: Broken, driver: &mut Driver) -> Trouble {
        let said = error.or_last_words(driver).await;
        self.doubt(step, said)
    }

    fn nothing_ran(&self, step: &'static str, said: Said) -> Trouble {
        if said.is_reconnect() {
            Trouble::Reconnect
        } else {
            Trouble::Failed(self.failure(step, said))
        }
    }

    /// An ordinary error of the server is a clear no; everything else is not.
    fn doubt(&self, step: &'static str, said: Said) -> Trouble {
        let ordinary = said.severity == "ERROR" && !said.sqlstate.starts_with("08");
        let failure = self.failure(step, said);
        if ordinary {
            Trouble::Failed(failure)
        } else {
            Trouble::InDoubt(failure)
        }
    }

    pub fn failure(&self, step: &'static str, said: Said) -> Failure {
        Failure {
            writer: self.writer,
            step,
            sqlstate: said.sqlstate,
            message: said.message,
        }
    }
}

/// What a server said, if anything.
pub struct Said {
    severity: String,
    sqlstate: String,
    message: String,
}

impl Said {
    fn is_reconnect(&self) -> bool {
        self.sqlstate == "57P01"
    }
}

/// An error of the driver, or no answer in time.
pub enum Broken {
    Error(Error),
    NoAnswer,
}

impl Broken {
    /// A connection that the server closed while nothing was asked says so in its driver only.
    async fn or_last_words(self, driver: &mut Driver) -> Said {
        if let Self::Error(error) = &self
            && error.as_db_error().is_none()
            && let Ok(Ok(Err(last))) = tokio::time::timeout(STATEMENT_PATIENCE, driver).await
            && last.as_db_error().is_some()
        {
            return Self::Error(last).describe();
        }
        self.describe()
    }

    pub fn describe(&self) -> Said {
        match self {
            Self::NoAnswer => Said {
                severity: String::new(),
                sqlstate: String::new(),
                message: format!("no answer within {STATEMENT_PATIENCE:?}"),
            },
            Self::Error(error) => match error.as_db_error() {
                Some(db) => Said {
                    severity: db.severity().to_owned(),
                    sqlstate: db.code().code().to_owned(),
                    message: db.message().to_owned(),
                },
                None => Said {
                    severity: String::new(),
                    sqlstate: String::new(),
                    message: error.to_string(),
                },
            },
        }
    }
}

/// The answer, or that it broke or never came.
pub async fn within<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, Broken> {
    match tokio::time::timeout(STATEMENT_PATIENCE, answer).await {
        Ok(result) => result.map_err(Broken::Error),
        Err(_) => Err(Broken::NoAnswer),
    }
}
