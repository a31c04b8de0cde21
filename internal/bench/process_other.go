//go:build !linux

package bench

import "syscall"

// processAttributes: the child is in a process group of its own, so that a
// terminal's Ctrl-C reaches only us.
func processAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
