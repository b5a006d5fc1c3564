//! Other rules of the host. In nf_tables a packet passes every table, and one that drops it has the last word: that our
//! own table accepts it does not help.
//!
//! Docker sets the policy of `ip filter FORWARD` to drop, and leaves the chain `DOCKER-USER`, which it never touches,
//! for others to accept in (docs.docker.com, "Packet filtering and firewalls"). There, or in the chain `FORWARD` itself
//! where a firewall has set its policy, two rules accept what comes from our bridges or goes to them; what they must
//! not do is dropped by our own table. iptables-nft(8) shows the rules with the comment `strata`. Chains of other shapes
//! are not touched but named in a warning. Rules of the old iptables (`iptables-legacy`) are invisible over nf_tables.

use std::io;

use crate::error::{Error, Part};
use crate::netlink::{Answer, Attributes, Batch, CREATE, DUMP, Socket, number};
use crate::nft::{
    ACCEPT, META_IIFNAME, META_OIFNAME, NEWRULE, NFPROTO_IPV4, NFPROTO_IPV6, REGISTER_1, Rule, SUBSYSTEM, header,
    transaction,
};

const GETCHAIN: u16 = 4;
const GETRULE: u16 = 7;
const DELRULE: u16 = 8;
const FORWARD_HOOK: u32 = 2;
const DROP: u32 = 0;
/// What the names of all bridges begin with.
const BRIDGES: &[u8] = b"st-";
/// A comment as nft(8) and iptables-nft(8) keep it: kind, length, text.
const COMMENT: &[u8] = b"\0\x07strata\0";

/// A chain that drops what is forwarded unless a rule accepts it.
#[derive(Debug, PartialEq, Eq)]
struct Chain {
    family: u8,
    table: String,
    name: String,
}

/// Accepts our packets where that is possible; returns what else stands in the way.
pub(crate) fn open(filter: &Socket) -> Result<Vec<String>, Error> {
    let chains = list(filter, GETCHAIN, 0, None).map_err(failed)?;
    let named = |answer: &Answer| chain(answer, 3);
    let mut warnings = Vec::new();
    for closed in chains.iter().filter(|answer| drops_forwarded(answer)).filter_map(named) {
        if closed.table.starts_with("strata") {
            continue;
        }
        if closed.table != "filter"
            || closed.name != "FORWARD"
            || ![NFPROTO_IPV4, NFPROTO_IPV6].contains(&closed.family)
        {
            let family = match closed.family {
                1 => "inet",
                2 => "ip",
                10 => "ip6",
                _ => continue,
            };
            warnings.push(format!(
                "the host's chain {:?} in the table {family} {:?} drops what is forwarded: instances reach the outside, \
                 and published ports are reached, only if it accepts packets from and to interfaces named st-*",
                closed.name, closed.table
            ));
            continue;
        }
        let user = chains
            .iter()
            .filter_map(named)
            .find(|c| c.family == closed.family && c.table == closed.table && c.name == "DOCKER-USER");
        let target = user.unwrap_or(closed);
        let rules = list(filter, GETRULE, target.family, Some(&target)).map_err(failed)?;
        if !rules.iter().any(is_ours) {
            accept(filter, &target).map_err(failed)?;
        }
    }
    Ok(warnings)
}

/// Takes our rules out of others' chains.
pub(crate) fn close(filter: &Socket) -> Result<(), Error> {
    for family in [NFPROTO_IPV4, NFPROTO_IPV6] {
        let rules = list(filter, GETRULE, family, None).map_err(failed)?;
        for rule in rules.iter().filter(|rule| is_ours(rule)) {
            let (Some(chain), Some(handle)) = (chain(rule, 2), rule.attributes(4).find(3)) else { continue };
            let mut batch = transaction(|batch| {
                batch.message(SUBSYSTEM << 8 | DELRULE, 0, &header(family));
                batch.text(1, &chain.table).text(2, &chain.name).attribute(3, handle);
            });
            // Its owner may remove the chain at this moment.
            let _ = filter.transact(&mut batch);
        }
    }
    Ok(())
}

fn failed(refusal: io::Error) -> Error {
    Error::kernel("look through the host's packet filter", Part::NfTables, refusal)
}

fn list(filter: &Socket, kind: u16, family: u8, of: Option<&Chain>) -> io::Result<Vec<Answer>> {
    let mut batch = Batch::default();
    batch.message(SUBSYSTEM << 8 | kind, DUMP, &header(family));
    if let Some(chain) = of {
        batch.text(1, &chain.table).text(2, &chain.name);
    }
    filter.dump(&mut batch)
}

/// The chain that an answer speaks of; its name is in this attribute.
fn chain(answer: &Answer, name: u16) -> Option<Chain> {
    let text = |kind| answer.attributes(4).text(kind).map(str::to_string);
    Some(Chain { family: *answer.body.first()?, table: text(1)?, name: text(name)? })
}

fn drops_forwarded(answer: &Answer) -> bool {
    let be32 = |bytes: &[u8]| number::<4>(bytes, 0).map(u32::from_be_bytes);
    let hook = answer.attributes(4).find(4).and_then(|hook| be32(Attributes(hook).find(1)?));
    let policy = answer.attributes(4).find(5).and_then(be32);
    hook == Some(FORWARD_HOOK) && policy == Some(DROP)
}

fn is_ours(rule: &Answer) -> bool {
    rule.attributes(4).find(7) == Some(COMMENT)
}

/// Puts two rules at the head of a chain, as iptables writes `-i st-+ -j ACCEPT` and `-o st-+ -j ACCEPT`.
fn accept(filter: &Socket, chain: &Chain) -> io::Result<()> {
    let mut batch = transaction(|batch| {
        for key in [META_IIFNAME, META_OIFNAME] {
            batch.message(SUBSYSTEM << 8 | NEWRULE, CREATE, &header(chain.family));
            batch.text(1, &chain.table).text(2, &chain.name);
            batch.nested(4, |b| {
                Rule(b).meta(key, REGISTER_1).equals(REGISTER_1, BRIDGES).counter().verdict(ACCEPT, None);
            });
            batch.attribute(7, COMMENT);
        }
    });
    filter.transact(&mut batch)
}
