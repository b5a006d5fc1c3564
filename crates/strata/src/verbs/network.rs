//! `strata network`: the networks of instances.

use std::net::IpAddr;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use strata_network::{CreateNetwork, Networks, Range, Subnet};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Table, print, print_json};

/// Options of `network`.
#[derive(Debug, Args)]
pub struct Network {
    #[command(subcommand)]
    verb: Verb,
}

/// What to do with networks.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a network
    Create(Box<Create>),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Show everything known of networks and their instances, as JSON
    Inspect(Names),
    /// Remove networks that no instance uses
    #[command(visible_alias = "remove")]
    Rm(Names),
    /// Remove every network that no instance uses
    Prune,
    /// Make again what somebody removed of networks that instances use
    Repair(Names),
}

/// Options of `network create`.
#[derive(Debug, Args)]
pub struct Create {
    /// Subnet, as ADDRESS/BITS; once for IPv4 and once for IPv6 [default: free ones]
    #[arg(long, value_name = "SUBNET")]
    subnet: Vec<Subnet>,
    /// The network's own address in a subnet [default: its second one]
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<IpAddr>,
    /// No IPv6
    #[arg(long)]
    ipv4_only: bool,
    /// VLAN that the network's instances are in
    #[arg(long, value_name = "ID")]
    vlan: Option<u16>,
    /// Interface of the host that carries the network on, tagged if it has a VLAN
    #[arg(long, value_name = "INTERFACE")]
    uplink: Option<String>,
    /// Largest packet in bytes
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u32>,
    /// No way to the outside
    #[arg(long)]
    internal: bool,
    /// Instances of the network do not reach each other
    #[arg(long)]
    isolate: bool,
    /// Name of the network
    #[arg(value_name = "NETWORK")]
    name: String,
}

/// Options of `network ls`.
#[derive(Debug, Args)]
pub struct Ls {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print names only
    #[arg(short, long)]
    quiet: bool,
}

/// Names of networks.
#[derive(Debug, Args)]
pub struct Names {
    /// Names of the networks
    #[arg(value_name = "NETWORK", required = true)]
    names: Vec<String>,
}

impl Network {
    /// Does it.
    pub fn execute(self, context: &Context) -> Result<ExitCode, Failure> {
        let networks = Networks::open(&context.store_root(), &context.state_root())?;
        match self.verb {
            Verb::Create(verb) => verb.execute(&networks)?,
            Verb::Ls(verb) => verb.execute(&networks)?,
            Verb::Inspect(verb) => {
                let found = verb.names.iter().map(|name| networks.inspect(name)).collect::<Result<Vec<_>, _>>()?;
                print_json(&found)?;
            }
            Verb::Rm(verb) => {
                for name in verb.names {
                    networks.remove(&name)?;
                    print(&format!("{name}\n"))?;
                }
            }
            Verb::Prune => networks.prune()?.iter().try_for_each(|name| print(&format!("{name}\n")))?,
            Verb::Repair(verb) => {
                for name in verb.names {
                    for warning in networks.repair(&name)? {
                        context.log.warning(&warning);
                    }
                    print(&format!("{name}\n"))?;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Create {
    fn execute(self, networks: &Networks) -> Result<(), Failure> {
        let network = networks.create(&CreateNetwork {
            name: self.name,
            subnets: self.subnet,
            gateways: self.gateway,
            ipv4_only: self.ipv4_only,
            vlan: self.vlan,
            uplink: self.uplink,
            mtu: self.mtu,
            internal: self.internal,
            isolate: self.isolate,
        })?;
        print(&format!("{}\n", network.name))
    }
}

impl Ls {
    fn execute(self, networks: &Networks) -> Result<(), Failure> {
        let all = networks.list()?;
        if self.json {
            return print_json(&all);
        }
        if self.quiet {
            return all.iter().try_for_each(|network| print(&format!("{}\n", network.name)));
        }
        let subnet = |range: Option<Range>| range.map_or_else(|| "-".to_string(), |range| range.subnet.to_string());
        let mut table = Table::new(&["NAME", "BRIDGE", "IPV4", "IPV6", "OPTIONS"]);
        for network in all {
            let options = [
                network.internal.then(|| "internal".to_string()),
                network.isolate.then(|| "isolate".to_string()),
                network.vlan.map(|vlan| format!("vlan={vlan}")),
                network.uplink.as_ref().map(|uplink| format!("uplink={uplink}")),
                network.mtu.map(|mtu| format!("mtu={mtu}")),
            ];
            let options: Vec<String> = options.into_iter().flatten().collect();
            table.row([network.name, network.bridge, subnet(network.ipv4), subnet(network.ipv6), options.join(",")]);
        }
        table.print()
    }
}
