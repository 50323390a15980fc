// Package check implements --test and --check of threatstopd.
//
// Test goes through the configuration, pf and its rules, pflog, the policy
// servers, the log server, the clock, and the files. In the end it makes a
// connection that has to be blocked, and looks for its record.
//
// Check reports of addresses whether and why they are blocked.
//
// Both see the system through an Env.
package check
