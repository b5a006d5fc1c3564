//! TODO
use crate::error::Error;
use crate::netlink::Socket;
pub(crate) fn open(_filter: &Socket) -> Result<Option<String>, Error> {
    Ok(None)
}
pub(crate) fn close(_filter: &Socket) -> Result<(), Error> {
    Ok(())
}
