package bench

import "syscall"

// processAttributes: the child is in a process group of its own, so that a
// terminal's Ctrl-C reaches only us, and is told to stop when we die.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGINT}
}
