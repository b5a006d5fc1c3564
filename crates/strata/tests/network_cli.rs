//! `strata network`: definitions only; what they become in the kernel is tested beside the crate.

#[macro_use]
mod common;

use common::{Out, Runtime, is_strata, run, skip};

#[test]
fn networks_are_made_listed_shown_and_removed() {
    let name = "network_cli::networks_are_made_listed_shown_and_removed";
    if !is_strata() {
        return skip(name, "the program under test is not Strata");
    }
    require!(name);
    let rt = Runtime::new();
    let call = |arguments: &[&str]| -> Out {
        let mut command = rt.command(["--store"]);
        command.arg(rt.scratch.join("store")).arg("network").args(arguments);
        run(&mut command)
    };
    // 198.18.0.0/15 is for tests of networks (RFC 2544): no host routes it.
    call(&["create", "--subnet", "198.18.7.0/24", "--mtu", "9000", "--internal", "web"]).ok().out_is("web");
    call(&["create", "web"]).fails().err_has("exists already");
    call(&["create", "--subnet", "198.18.0.0/16", "wide"]).fails().err_has("overlaps with the network \"web\"");
    call(&["create", "--subnet", "198.18.9.1/24", "odd"]).fails().err_has("ADDRESS/BITS");
    call(&["create", "--vlan", "4095", "odd"]).fails().err_has("1 to 4094");
    call(&["create", "../odd"]).fails().err_has("network name");
    call(&["create", "--isolate", "auto"]).ok();
    call(&["ls"]).ok().out_has("198.18.7.0/24").out_has("internal,mtu=9000").out_has("isolate");
    let shown = call(&["inspect", "web"]).ok().json();
    assert_eq!(shown[0]["ipv4"]["gateway"], "198.18.7.1");
    assert_eq!(shown[0]["health"], "idle");
    call(&["rm", "web"]).ok().out_is("web");
    call(&["rm", "web"]).fails().err_has("there is no network");
    call(&["prune"]).ok().out_is("auto");
    assert_eq!(call(&["ls", "--json"]).ok().json(), serde_json::json!([]));
}
