// Package check looks whether everything is as threatstopd needs it, and says
// what to do where it is not: the --test and --check of threatstopd.
//
// Test goes through the configuration, pf and its rules, pflog, the policy
// servers, the log server, the clock, and the files. In the end it makes a
// connection that has to be blocked, and looks for its record.
//
// Rules is the part of it that needs most care: whether the rules that pf has
// loaded block what the block table holds. It sends all packets of a listed
// address through the rules at once. The values that rules ask for cut the
// addresses, ports, protocols, interfaces and so on into classes that no rule
// tells apart, a set of packets is a box of such classes, and a rule splits a
// box in what it matches and the rest. So nothing is tried out on examples: what
// passes is known, with all its limits, and the rule that lets it through.
//
// Check tells of one address whether and why it is blocked.
//
// What is asked of the system comes through an Env.
package check
